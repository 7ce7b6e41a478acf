package dcdr.authorizer;

/** Why a line stands in the audit trail. The words are part of the product: alerts are built on them. */
enum Reason {
    /** The process has started and believes nothing yet. */
    STARTED("started"),
    /** A valid marker says so. */
    MARKER("marker"),
    /** A later epoch is known but not on disk yet: only what the old and the new marker both allow is allowed. */
    STORING_EPOCH("storing-epoch"),
    /** Valid markers of one epoch name different roles: nobody writes. */
    AGENTS_DISAGREE("agents-disagree"),
    /** The markers that would open were asked for before a marker of their epoch closed: the agents are asked again. */
    ASKED_BEFORE_CLOSING("asked-before-closing"),
    /** The last marker ran out on the monotonic clock. */
    EXPIRED("expired"),
    /** The last marker ran out on the wall clock first: a clock was set, or the machine had been suspended. */
    EXPIRED_BY_WALL_CLOCK("expired-by-wall-clock"),
    /** An agent that was refused or silent is heard again, and says nothing new. */
    AGENT_ANSWERS("agent-answers"),
    /** The broker is going down. */
    STOPPED("stopped"),

    /** The agent gave no whole answer in time. */
    UNREACHABLE("unreachable"),
    /** The agent answered with a status other than 200. */
    NO_MARKER_SERVED("no-marker-served"),
    /** The answer is no marker: not JSON, a field too many or too few, a value of the wrong kind. */
    UNREADABLE("unreadable"),
    /** The answer is longer than {@link Marker#MAX_BYTES}. */
    OVERSIZED("oversized"),
    FOREIGN_SCOPE("foreign-scope"),
    FOREIGN_DC("foreign-dc"),
    FOREIGN_CLUSTER("foreign-cluster"),
    /** A later epoch has been seen here. */
    LOWER_EPOCH("lower-epoch"),
    /** The marker had run out when it arrived. */
    STALE("stale"),
    /** The agent's wall clock and the broker's differ by more than allowed. */
    CLOCK_SKEW("clock-skew"),
    /** The highest epoch seen can not be kept: the epoch file is damaged, locked or not writable. */
    EPOCH_FILE("epoch-file"),
    /** The TLS files can not be used; those read before stay in use. */
    TLS_FILES("tls-files"),
    /** A defect of this plugin. */
    DEFECT("defect");

    private final String word;

    Reason(String word) {
        this.word = word;
    }

    @Override
    public String toString() {
        return word;
    }
}
