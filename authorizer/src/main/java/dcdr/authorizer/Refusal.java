package dcdr.authorizer;

/** An answer of an agent, or its absence, that is not believed. The message is for people and holds no secret. */
final class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    private final Reason reason;

    Refusal(Reason reason, String detail) {
        // No stack trace: refusals are ordinary, and a failing agent produces two a second.
        super(detail, null, false, false);
        this.reason = reason;
    }

    Reason reason() {
        return reason;
    }
}
