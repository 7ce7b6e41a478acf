package dcdr.authorizer;

/** The two clocks of this process, so that tests can hold them. */
interface Clock {

    Clock SYSTEM = new Clock() {
        @Override
        public long nanoTime() {
            return System.nanoTime();
        }

        @Override
        public long wallMs() {
            return System.currentTimeMillis();
        }
    };

    /** Nanoseconds of the monotonic clock; only differences mean something. It may stand still while a machine is suspended. */
    long nanoTime();

    /** Milliseconds since 1970 UTC. It may jump. */
    long wallMs();
}
