package dcdr.authorizer;

import org.junit.jupiter.api.Test;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

/**
 * Random worlds against a second, naive account of what was said.
 *
 * <p>Two agents answer, late, never, twice in a row, with stale beliefs and skewed clocks; the broker pauses, its wall clock jumps, its disk
 * fails. After every step the gate must not be open unless the account can name the marker that opens it.
 */
class GatePropertyTest {

    private static final int WORLDS = 3000;
    private static final int STEPS = 250;
    private static final long SKEW_MS = 200;

    /** A marker that reached the broker. */
    private record Heard(String agent, Marker marker, long sentNs, long sentWallMs, long heardNs, long heardWallMs, int turn) {
    }

    private record Asked(long ns, long wallMs, Marker answer) {
    }

    private final Map<Reason, Integer> outcomes = new HashMap<>();
    private int opened;

    @Test
    void a_gate_is_never_open_without_a_marker_that_opens_it() {
        for (int seed = 0; seed < WORLDS; seed++) {
            try {
                world(seed);
            } catch (AssertionError error) {
                throw new AssertionError("seed " + seed + ": " + error.getMessage(), error);
            }
        }
        // A world in which nothing happens proves nothing.
        assertTrue(opened > WORLDS, "opened only " + opened + " times");
        for (Reason reason : List.of(Reason.EXPIRED, Reason.EXPIRED_BY_WALL_CLOCK, Reason.STALE, Reason.CLOCK_SKEW, Reason.LOWER_EPOCH,
            Reason.AGENTS_DISAGREE, Reason.ASKED_BEFORE_CLOSING, Reason.STORING_EPOCH, Reason.FOREIGN_DC)) {
            assertTrue(outcomes.getOrDefault(reason, 0) > 50, reason + " was reached only " + outcomes.get(reason) + " times");
        }
    }

    private void world(int seed) {
        Random random = new Random(seed);
        FakeClock clock = new FakeClock();
        List<Heard> heard = new ArrayList<>();
        List<Change> changes = new ArrayList<>();
        Gate gate = new Gate("lab", "dc-a", "c1", 0, SKEW_MS, 60_000, clock, changes::add);
        Map<String, Asked> pending = new HashMap<>();
        long trueEpoch = 0;
        Role trueRole = Role.NONE;
        Decision last = gate.decision();
        for (int step = 0; step < STEPS; step++) {
            String agent = random.nextInt(3) == 0 ? "agent-2" : "agent-1";
            switch (random.nextInt(12)) {
                case 0 -> clock.pass(random.nextInt(300));
                case 1 -> clock.pass(random.nextInt(20) == 0 ? 5_000 : 20);
                case 2 -> {
                    if (random.nextInt(8) == 0) {
                        clock.jump(random.nextInt(4_000) - 2_000);
                    }
                }
                case 3 -> {
                    Role before = trueRole;
                    trueRole = Role.values()[random.nextInt(3)];
                    // The same epoch never names both classes: another role of writers is another holder.
                    if (before != trueRole && (trueRole != Role.NONE && before != Role.NONE || random.nextInt(3) == 0)) {
                        trueEpoch++;
                    }
                }
                case 4 -> gate.tick();
                case 5 -> gate.refuse(agent, Reason.UNREACHABLE, "dropped");
                case 6, 7, 8 -> pending.putIfAbsent(agent, new Asked(clock.nanoTime(), clock.wallMs(), null));
                case 9 -> {
                    Asked asked = pending.get(agent);
                    if (asked != null && asked.answer == null) {
                        pending.put(agent, new Asked(asked.ns, asked.wallMs, say(random, clock, trueEpoch, trueRole)));
                    }
                }
                default -> {
                    Asked asked = pending.get(agent);
                    if (asked != null && asked.answer != null) {
                        pending.remove(agent);
                        heard.add(new Heard(agent, asked.answer, asked.ns, asked.wallMs, clock.nanoTime(), clock.wallMs(), heard.size()));
                        boolean diskFails = random.nextInt(10) == 0;
                        Gate.Verdict verdict = gate.offer(agent, asked.answer, asked.ns, asked.wallMs);
                        if (gate.unstoredEpoch() >= 0 && !diskFails) {
                            gate.stored(gate.unstoredEpoch());
                            if (verdict == Gate.Verdict.STORE_FIRST) {
                                gate.offer(agent, asked.answer, asked.ns, asked.wallMs);
                            }
                        }
                    }
                }
            }
            Decision now = gate.decision();
            check(gate, clock, heard);
            if (now.role() == Role.ACTIVE && last.role() != Role.ACTIVE) {
                opened++;
            }
            last = now;
        }
        checkTrail(changes);
        changes.forEach(each -> outcomes.merge(each.reason(), 1, Integer::sum));
    }

    /** What an agent says: mostly the truth, now and then an old truth, a wrong clock, or something foreign. */
    private static Marker say(Random random, Clock clock, long epoch, Role role) {
        boolean stale = random.nextInt(6) == 0;
        long said = stale ? Math.max(0, epoch - random.nextInt(2)) : epoch;
        Role saidRole = stale ? Role.values()[random.nextInt(3)] : role;
        long off = random.nextInt(15) == 0 ? random.nextInt(2_000) - 1_000 : random.nextInt(40) - 20;
        String dc = random.nextInt(30) == 0 ? "dc-b" : "dc-a";
        return new Marker("lab", dc, "c1", said, saidRole, "v", random.nextInt(1_000), clock.wallMs() + off);
    }

    private void check(Gate gate, Clock clock, List<Heard> heard) {
        boolean users = gate.decision().usersOpen(clock);
        boolean mirror = gate.decision().mirrorOpen(clock);
        if (users && mirror) {
            fail("both gates are open");
        }
        if (users) {
            justify(Role.ACTIVE, clock, heard);
        }
        if (mirror) {
            justify(Role.STANDBY, clock, heard);
        }
    }

    /** Some marker of ours gives `role`, has not run out on either clock, and nothing later or higher speaks against it. */
    private static void justify(Role role, Clock clock, List<Heard> heard) {
        for (Heard each : heard) {
            Marker marker = each.marker;
            long end = each.sentNs + marker.validMs() * 1_000_000L;
            boolean ours = marker.dc().equals("dc-a") && marker.role() == role;
            boolean lives = clock.nanoTime() - end < 0 && clock.wallMs() <= marker.wallMs() + marker.validMs() + SKEW_MS
                && marker.wallMs() >= each.sentWallMs - SKEW_MS && marker.wallMs() <= each.heardWallMs + SKEW_MS;
            if (ours && lives && heard.stream().noneMatch(other -> against(each, other))) {
                return;
            }
        }
        fail(role + " is open and no marker opens it; the last ones heard were " + heard.subList(Math.max(0, heard.size() - 8), heard.size()));
    }

    /** Another marker of ours takes the permission away: a later epoch with another role, or a closing heard after the question. */
    private static boolean against(Heard permission, Heard other) {
        if (!other.marker.dc().equals("dc-a")) {
            return false;
        }
        if (other.marker.epoch() > permission.marker.epoch()) {
            // While a later epoch is being stored, the old permission may stand if the later marker gives the same.
            return other.marker.role() != permission.marker.role() || other.turn < permission.turn;
        }
        return other.marker.epoch() == permission.marker.epoch() && other.marker.role() == Role.NONE
            && other.heardNs - permission.sentNs > 0;
    }

    private static void checkTrail(List<Change> changes) {
        for (int i = 1; i < changes.size(); i++) {
            Change now = changes.get(i);
            Change before = changes.get(i - 1);
            assertTrue(!(now.users() && now.mirror()), "both open in the trail");
            boolean same = now.users() == before.users() && now.mirror() == before.mirror() && now.role() == before.role()
                && now.epoch() == before.epoch() && now.reason() == before.reason()
                && String.valueOf(now.agent()).equals(String.valueOf(before.agent()));
            assertTrue(!same, "told twice: " + now);
            assertTrue(now.monoNs() - before.monoNs() >= 0 || now.reason() == Reason.EXPIRED, "out of order: " + now);
        }
    }
}
