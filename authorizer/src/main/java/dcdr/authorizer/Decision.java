package dcdr.authorizer;

/**
 * What is believed now. Immutable: requests read one object through one volatile field.
 *
 * <p>It carries its own end, because nothing may be left to a timer: a process that was frozen answers requests before its
 * timers run.
 *
 * @param role        what the believed marker says; null when nothing is believed
 * @param epoch       the epoch of what is believed, or the highest seen when nothing is
 * @param untilNs     end on {@link Clock#nanoTime()}, exclusive
 * @param untilWallMs end on {@link Clock#wallMs()}, inclusive
 */
record Decision(Role role, long epoch, Reason reason, long untilNs, long untilWallMs) {

    /** Nobody may write, and `role` tells what is known. */
    static Decision closed(Role role, long epoch, Reason reason) {
        return new Decision(role, epoch, reason, 0, Long.MIN_VALUE);
    }

    boolean opensUsers() {
        return role == Role.ACTIVE;
    }

    boolean opensMirror() {
        return role == Role.STANDBY;
    }

    /** May users write at this moment? */
    boolean usersOpen(Clock clock) {
        return role == Role.ACTIVE && holds(clock.nanoTime(), clock.wallMs());
    }

    /** May the mirror write at this moment? */
    boolean mirrorOpen(Clock clock) {
        return role == Role.STANDBY && holds(clock.nanoTime(), clock.wallMs());
    }

    boolean holds(long nowNs, long wallMs) {
        return nowNs - untilNs < 0 && wallMs <= untilWallMs;
    }

    boolean sameState(Decision other) {
        return role == other.role && epoch == other.epoch && reason == other.reason;
    }
}
