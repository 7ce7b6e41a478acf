package dcdr.authorizer;

import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Decides, from what the agents of one data center say, who may write to this cluster now: users, the mirror, or nobody.
 *
 * <p><b>One agent.</b> Its last marker counts until (moment the broker asked) + valid_ms on the monotonic clock, and until
 * wall_ms + valid_ms + skew on the wall clock, whichever comes first. Delays, pauses and clock jumps can only shorten this.
 *
 * <p><b>Several agents.</b> Each has a slot with its last believed marker.
 * <ol>
 * <li>The highest epoch ever seen wins. A lower one is refused from whomever it comes, so a stale agent that says ACTIVE,
 * STANDBY or NONE of epoch 6 has no say once epoch 7 was seen, here or (epoch file) before a restart. Until 7 is seen, an
 * ACTIVE of 6 is believed within its validity: that is safe, because validity ends before the lease can have moved
 * (L(1-rho) >= V(1+rho) + P), and a planned handover is confirmed by its effect on every broker first.
 * <li>At one epoch, all markers that have not run out must agree, else nobody writes. The acting agent may be the one that
 * closes while the frozen one's last word was ACTIVE, or the other way round; the broker cannot tell which, and closing
 * wrongly costs time while opening wrongly costs records. The cost is bounded by the frozen agent's validity.
 * <li>Closing is a barrier. After any marker of this epoch that does not allow a class, only markers <i>asked for</i> since may
 * allow it. Without this, the acting agent's NONE would run out before the frozen agent's longer ACTIVE, and its
 * expiry would open the cluster that had been closed and confirmed closed.
 * </ol>
 *
 * <p><b>A refused marker</b> neither extends nor shortens what is believed: what cannot be read, or is not about us, says
 * nothing about us, and an attacker who can only garble answers must not gain the power to close (silence already
 * gives that, after the validity). Two refused markers do say something: one of ours with a later epoch proves that what is
 * believed is over, and a NONE of the same epoch is an order to close; both close at once, even if too late or
 * skewed to be believed. They only ever close.
 *
 * <p><b>Wall clocks.</b> A marker whose wall_ms does not lie between the broker's wall clock when it asked and when it was
 * answered, within the skew, is refused: with clocks in order it must lie there, however slow the answer was. A wall clock that
 * jumps, the broker's or the agent's, therefore ends in refusals and then in expiry (it fails closed), and a jump forward may
 * expire what is believed at once. What this buys is the case the monotonic clock cannot see: a suspended machine
 * whose clocks stood still.
 *
 * <p>Methods that change state are synchronized and never called by request threads; none of them does I/O.
 */
final class Gate {

    /** What became of a marker. */
    enum Verdict {
        BELIEVED,
        /** Its epoch is new: store {@link #unstoredEpoch()}, report {@link #stored}, and offer the marker again. */
        STORE_FIRST,
        /** Asked for before a closing: ask again at once. */
        ASK_AGAIN,
        REFUSED
    }

    private record Slot(Marker marker, long sentNs, long untilNs, long untilWallMs) {

        boolean holds(long nowNs, long wallMs) {
            return nowNs - untilNs < 0 && wallMs <= untilWallMs;
        }
    }

    private final String scope;
    private final String dc;
    private final String cluster;
    private final long skewMs;
    private final long maxValidMs;
    private final Clock clock;
    private final Consumer<Change> trail;

    private volatile Decision decision;

    private final Map<String, Slot> slots = new HashMap<>();
    /** Per agent, why its last answer was refused; null once it was believed. */
    private final Map<String, Reason> troubles = new HashMap<>();
    private final Map<String, String> warnings = new HashMap<>();
    private long seenEpoch;
    private long storedEpoch;
    /** When a marker of this epoch last said that a class may not write; null: none did. */
    private Long usersClosedNs;
    private Long mirrorClosedNs;
    /** What was believed under an older epoch and is confirmed by a marker whose epoch is being stored. */
    private Decision bridge;
    private boolean stopped;

    /**
     * @param storedEpoch the highest epoch seen before the restart, -1 if none
     * @param trail       gets every change, in order, under this object's monitor: it must not block
     */
    Gate(String scope, String dc, String cluster, long storedEpoch, long skewMs, long maxValidMs, Clock clock,
         Consumer<Change> trail) {
        this.scope = scope;
        this.dc = dc;
        this.cluster = cluster;
        this.seenEpoch = storedEpoch;
        this.storedEpoch = storedEpoch;
        this.skewMs = skewMs;
        this.maxValidMs = maxValidMs;
        this.clock = clock;
        this.trail = trail;
        this.decision = Decision.closed(null, storedEpoch, Reason.STARTED);
        tell(decision, Reason.STARTED, clock.nanoTime(), null, null);
    }

    Decision decision() {
        return decision;
    }

    synchronized long seenEpoch() {
        return seenEpoch;
    }

    /** The epoch that must be stored before anything of it is believed, or -1 if there is none. */
    synchronized long unstoredEpoch() {
        return seenEpoch > storedEpoch ? seenEpoch : -1;
    }

    /** The file now holds this epoch: the one that was to be stored, or a later one that another process has seen. */
    synchronized void stored(long epoch) {
        storedEpoch = Math.max(storedEpoch, epoch);
        if (epoch > seenEpoch) {
            enterEpoch(epoch, null);
            publish(conclude(Reason.LOWER_EPOCH, clock.nanoTime(), clock.wallMs()), null, "another process of this node saw it");
        }
    }

    /**
     * Judge one answer of an agent.
     *
     * @param sentNs     {@link Clock#nanoTime()} before the question was sent
     * @param sentWallMs {@link Clock#wallMs()} before the question was sent
     */
    synchronized Verdict offer(String agent, Marker marker, long sentNs, long sentWallMs) {
        if (stopped) {
            return Verdict.REFUSED;
        }
        long now = clock.nanoTime();
        long wall = clock.wallMs();
        Refusal foreign = foreign(marker);
        if (foreign != null) {
            return refuse(agent, foreign.reason(), foreign.getMessage());
        }
        if (marker.epoch() < seenEpoch) {
            return refuse(agent, Reason.LOWER_EPOCH, "epoch " + marker.epoch() + ", seen " + seenEpoch);
        }
        Refusal untimely = untimely(marker, sentNs, sentWallMs, now, wall);
        if (marker.epoch() > seenEpoch) {
            enterEpoch(marker.epoch(), untimely == null ? marker.role() : null);
        }
        if (bridge != null && bridge.role() != marker.role()) {
            bridge = null;
        }
        if (untimely != null) {
            if (marker.role() == Role.NONE) {
                usersClosedNs = now;
                mirrorClosedNs = now;
            }
            return refuse(agent, untimely.reason(), untimely.getMessage());
        }
        if (marker.role() != Role.ACTIVE) {
            usersClosedNs = now;
        }
        if (marker.role() != Role.STANDBY) {
            mirrorClosedNs = now;
        }
        if (marker.epoch() > storedEpoch) {
            publish(conclude(Reason.STORING_EPOCH, now, wall), agent, null);
            return Verdict.STORE_FIRST;
        }
        Slot slot = new Slot(marker, sentNs, sentNs + marker.validMs() * 1_000_000L, marker.wallMs() + marker.validMs() + skewMs);
        slots.put(agent, slot);
        bridge = null;
        boolean told = publish(conclude(Reason.MARKER, now, wall), agent, null);
        Reason trouble = troubles.remove(agent);
        if (trouble != null && !told) {
            tell(decision, Reason.AGENT_ANSWERS, now, agent, "was " + trouble);
        }
        return counts(slot) ? Verdict.BELIEVED : Verdict.ASK_AGAIN;
    }

    /** An agent gave no answer, or none that could be judged. What is believed stands until its own end. */
    synchronized Verdict refuse(String agent, Reason reason, String detail) {
        if (stopped) {
            return Verdict.REFUSED;
        }
        boolean told = publish(conclude(reason, clock.nanoTime(), clock.wallMs()), agent, detail);
        if (troubles.put(agent, reason) != reason && !told) {
            tell(decision, reason, clock.nanoTime(), agent, detail);
        }
        return Verdict.REFUSED;
    }

    /** Tell once of something that needs a person although the agent answers; null when it is over. */
    synchronized void warn(String agent, Reason reason, String detail) {
        if (detail == null) {
            warnings.remove(agent);
        } else if (!detail.equals(warnings.put(agent, detail)) && !stopped) {
            tell(decision, reason, clock.nanoTime(), agent, detail);
        }
    }

    /** Notice what has run out. Requests notice by themselves; this is for the audit trail and for agents that disagreed. */
    synchronized void tick() {
        publish(conclude(Reason.EXPIRED, clock.nanoTime(), clock.wallMs()), null, null);
    }

    /** Close for good. */
    synchronized void stop() {
        if (!stopped) {
            slots.clear();
            bridge = null;
            publish(Decision.closed(null, seenEpoch, Reason.STOPPED), null, null);
            stopped = true;
        }
    }

    /** Nanoseconds until something believed runs out, at most `limitNs`. */
    synchronized long untilNextExpiryNs(long limitNs) {
        long now = clock.nanoTime();
        long nearest = limitNs;
        for (Slot slot : slots.values()) {
            nearest = Math.min(nearest, slot.untilNs - now);
        }
        if (bridge != null) {
            nearest = Math.min(nearest, bridge.untilNs() - now);
        }
        return Math.max(0, nearest);
    }

    private Refusal foreign(Marker marker) {
        if (!marker.scope().equals(scope)) {
            return new Refusal(Reason.FOREIGN_SCOPE, "scope " + marker.scope());
        }
        if (!marker.dc().equals(dc)) {
            return new Refusal(Reason.FOREIGN_DC, "dc " + marker.dc());
        }
        if (!marker.cluster().equals(cluster)) {
            return new Refusal(Reason.FOREIGN_CLUSTER, "cluster " + marker.cluster());
        }
        if (marker.validMs() > maxValidMs) {
            return new Refusal(Reason.UNREADABLE, "valid_ms " + marker.validMs() + " is above " + maxValidMs);
        }
        return null;
    }

    private Refusal untimely(Marker marker, long sentNs, long sentWallMs, long now, long wall) {
        // First of all, because the sums below would overflow with a wall_ms near 2^63.
        if (marker.wallMs() > wall + skewMs || marker.wallMs() < sentWallMs - skewMs) {
            return new Refusal(Reason.CLOCK_SKEW, "agent's clock " + marker.wallMs() + ", ours " + sentWallMs + " to " + wall);
        }
        if (now - sentNs >= marker.validMs() * 1_000_000L) {
            return new Refusal(Reason.STALE, "valid for " + marker.validMs() + " ms, arrived after " + (now - sentNs) / 1_000_000L);
        }
        if (wall > marker.wallMs() + marker.validMs() + skewMs) {
            return new Refusal(Reason.STALE, "by the wall clock");
        }
        return null;
    }

    /** From here a lower epoch counts for nothing. What the new marker allows as well may go on while its epoch is stored. */
    private void enterEpoch(long epoch, Role confirmed) {
        bridge = confirmed != null && confirmed == decision.role() ? decision : null;
        seenEpoch = epoch;
        slots.clear();
        usersClosedNs = null;
        mirrorClosedNs = null;
    }

    /** Conclude from the slots; `cause` is the reason if nothing is left to believe and nothing ran out just now. */
    private Decision conclude(Reason cause, long now, long wall) {
        if (stopped) {
            return decision;
        }
        Reason loss = cause;
        for (Iterator<Slot> all = slots.values().iterator(); all.hasNext(); ) {
            Slot slot = all.next();
            if (!slot.holds(now, wall)) {
                loss = now - slot.untilNs >= 0 ? Reason.EXPIRED : Reason.EXPIRED_BY_WALL_CLOCK;
                all.remove();
            }
        }
        if (bridge != null && !bridge.holds(now, wall)) {
            loss = now - bridge.untilNs() >= 0 ? Reason.EXPIRED : Reason.EXPIRED_BY_WALL_CLOCK;
            bridge = null;
        }
        if (slots.isEmpty()) {
            if (bridge != null) {
                return bridge;
            }
            boolean nothingLost = decision.role() == null && decision.epoch() == seenEpoch;
            return nothingLost ? decision : Decision.closed(null, seenEpoch, loss);
        }
        Role role = null;
        Slot best = null;
        for (Slot slot : slots.values()) {
            if (role != null && role != slot.marker.role()) {
                return Decision.closed(Role.NONE, seenEpoch, Reason.AGENTS_DISAGREE);
            }
            role = slot.marker.role();
            if (counts(slot) && (best == null || slot.untilNs - best.untilNs > 0)) {
                best = slot;
            }
        }
        if (best == null) {
            return Decision.closed(null, seenEpoch, Reason.ASKED_BEFORE_CLOSING);
        }
        return new Decision(role, seenEpoch, Reason.MARKER, best.untilNs, best.untilWallMs);
    }

    /** Whether a slot's permission was asked for after the last word against it. A NONE permits nothing, so it always counts. */
    private boolean counts(Slot slot) {
        Long closedNs = switch (slot.marker.role()) {
            case ACTIVE -> usersClosedNs;
            case STANDBY -> mirrorClosedNs;
            case NONE -> null;
        };
        return closedNs == null || slot.sentNs - closedNs >= 0;
    }

    private boolean publish(Decision next, String agent, String detail) {
        Decision last = decision;
        long before = clock.nanoTime();
        decision = next;
        if (next.sameState(last)) {
            return false;
        }
        long monoNs = next.opensUsers() || next.opensMirror() ? before : clock.nanoTime();
        if (next.reason() == Reason.EXPIRED && (last.opensUsers() || last.opensMirror()) && monoNs - last.untilNs() > 0) {
            monoNs = last.untilNs();
        }
        tell(next, next.reason(), monoNs, agent, detail);
        return true;
    }

    private void tell(Decision now, Reason reason, long monoNs, String agent, String detail) {
        trail.accept(new Change(now.opensUsers(), now.opensMirror(), now.role(), now.epoch(), reason, monoNs, clock.wallMs(),
            agent, detail));
    }
}
