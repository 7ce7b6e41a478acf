package dcdr.authorizer;

/** Two clocks that stand still until they are moved. Starts near the overflow of nanoTime, which is where it may start. */
final class FakeClock implements Clock {

    static final long START_NS = Long.MAX_VALUE - 1_000_000_000L;
    static final long START_WALL_MS = 1_763_740_000_000L;

    private long nanos = START_NS;
    private long wallMs = START_WALL_MS;

    @Override
    public synchronized long nanoTime() {
        return nanos;
    }

    @Override
    public synchronized long wallMs() {
        return wallMs;
    }

    /** Time passes on both clocks. */
    synchronized void pass(long ms) {
        nanos += ms * 1_000_000L;
        wallMs += ms;
    }

    /** The wall clock is set. */
    synchronized void jump(long ms) {
        wallMs += ms;
    }
}
