package dcdr.authorizer;

import java.time.Duration;

/** Carries one question at a time to one agent. */
interface Channel extends AutoCloseable {

    /**
     * Ask and wait for the whole answer.
     *
     * @param target path and query, as in a request line
     * @param limit  from here to the last byte of the answer; a connection that died unnoticed is found by it
     * @return the body of a 200, at most {@link Marker#MAX_BYTES}
     * @throws Refusal if there was no such answer
     */
    byte[] ask(String target, Duration limit) throws Refusal, InterruptedException;

    /** What a person should mend although questions are still answered, or null. */
    default String warning() {
        return null;
    }

    @Override
    void close();
}
