package dcdr.authorizer;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

import java.util.ArrayList;
import java.util.List;

import static dcdr.authorizer.Gate.Verdict.ASK_AGAIN;
import static dcdr.authorizer.Gate.Verdict.BELIEVED;
import static dcdr.authorizer.Gate.Verdict.REFUSED;
import static dcdr.authorizer.Gate.Verdict.STORE_FIRST;
import static dcdr.authorizer.Role.ACTIVE;
import static dcdr.authorizer.Role.NONE;
import static dcdr.authorizer.Role.STANDBY;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

class GateTest {

    private static final String ONE = "agent-1";
    private static final String TWO = "agent-2";
    private static final long SKEW_MS = 500;

    private final FakeClock clock = new FakeClock();
    private final List<Change> changes = new ArrayList<>();
    private Gate gate;

    @BeforeEach
    void a_gate_that_has_seen_epoch_5() {
        gate = newGate(5);
    }

    // Before and while a marker is believed

    @Test
    void nothing_is_open_before_the_first_marker() {
        assertClosed();
        assertEquals(List.of("UNKNOWN 5 started"), lines());
    }

    @Test
    void active_opens_to_users_only_and_standby_to_the_mirror_only_and_none_to_nobody() {
        believe(ONE, ACTIVE, 5, 1000);
        assertTrue(users());
        assertFalse(mirror());
        believe(ONE, STANDBY, 5, 1000);
        assertFalse(users());
        assertTrue(mirror());
        believe(ONE, NONE, 5, 1000);
        assertClosed();
    }

    @Test
    void a_marker_counts_from_the_moment_of_the_question() {
        Sent sent = send();
        clock.pass(900);
        assertEquals(BELIEVED, answer(ONE, sent, marker(ACTIVE, 5, 1000)));
        clock.pass(99);
        assertTrue(users());
        clock.pass(1);
        assertClosed();
    }

    @Test
    void an_answer_that_took_longer_than_its_validity_is_stale() {
        Sent sent = send();
        clock.pass(1000);
        assertEquals(REFUSED, answer(ONE, sent, marker(ACTIVE, 5, 1000)));
        assertClosed();
        assertEquals(Reason.STALE, last().reason());
    }

    @Test
    void a_refresh_extends_and_leaves_no_line() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(600);
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(600);
        assertTrue(users());
        assertEquals(List.of("UNKNOWN 5 started", "ACTIVE 5 marker"), lines());
    }

    @Test
    void a_pause_of_the_process_only_shortens() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(60_000); // no timer ran, and the first request after the pause comes before any
        assertFalse(users());
    }

    @Test
    void expiry_is_told_once_with_the_moment_it_happened() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(1300);
        gate.tick();
        gate.tick();
        assertEquals("UNKNOWN 5 expired", lines().get(2));
        assertEquals(3, changes.size());
        assertEquals(FakeClock.START_NS + 1_000_000_000L, last().monoNs());
    }

    // Wall clocks

    @Test
    void a_machine_that_was_suspended_with_its_monotonic_clock_finds_the_gate_closed() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.jump(1501);
        assertFalse(users());
        gate.tick();
        assertEquals(Reason.EXPIRED_BY_WALL_CLOCK, last().reason());
    }

    @Test
    void a_wall_clock_set_back_does_not_lengthen() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.jump(-100_000);
        clock.pass(999);
        assertTrue(users());
        clock.pass(1);
        assertFalse(users());
    }

    @Test
    void what_the_wall_clock_ended_does_not_come_back_when_the_clock_is_set_right() {
        believe(ONE, ACTIVE, 5, 10_000);
        clock.jump(60_000);
        gate.tick();
        clock.jump(-60_000);
        gate.tick();
        assertClosed();
    }

    @Test
    void an_agent_whose_clock_is_ahead_or_behind_by_more_than_the_skew_is_refused() {
        for (long off : new long[] {-SKEW_MS - 1, SKEW_MS + 1, -45_000, 45_000, Long.MAX_VALUE - clock.wallMs()}) {
            assertEquals(REFUSED, answer(ONE, send(), marker(ACTIVE, 5, 10_000, clock.wallMs() + off)));
            assertEquals(Reason.CLOCK_SKEW, last().reason());
            assertClosed();
        }
        for (long off : new long[] {-SKEW_MS, SKEW_MS}) {
            assertEquals(BELIEVED, answer(ONE, send(), marker(ACTIVE, 5, 10_000, clock.wallMs() + off)));
        }
    }

    @Test
    void a_slow_answer_is_not_taken_for_a_skewed_clock() {
        Sent sent = send();
        clock.pass(3000);
        Marker answeredThen = marker(ACTIVE, 5, 10_000);
        clock.pass(3000);
        assertEquals(BELIEVED, answer(ONE, sent, answeredThen));
    }

    // Epochs

    @Test
    void a_lower_epoch_is_refused_and_changes_nothing() {
        assertEquals(REFUSED, answer(ONE, send(), marker(ACTIVE, 4, 1000)));
        assertClosed();
        believe(ONE, ACTIVE, 5, 1000);
        assertEquals(REFUSED, answer(TWO, send(), marker(NONE, 4, 1000)));
        assertTrue(users());
    }

    @Test
    void a_higher_epoch_is_believed_only_when_it_is_stored() {
        Sent sent = send();
        Marker marker = marker(ACTIVE, 6, 1000);
        assertEquals(STORE_FIRST, answer(ONE, sent, marker));
        assertEquals(6, gate.unstoredEpoch());
        assertClosed();
        gate.stored(6);
        assertClosed();
        assertEquals(BELIEVED, answer(ONE, sent, marker));
        assertTrue(users());
        assertEquals(-1, gate.unstoredEpoch());
    }

    @Test
    void a_higher_epoch_closes_at_once_what_it_does_not_confirm() {
        believe(ONE, ACTIVE, 5, 10_000);
        assertEquals(STORE_FIRST, answer(ONE, send(), marker(STANDBY, 6, 10_000)));
        assertClosed();
        assertEquals("UNKNOWN 6 storing-epoch", lines().get(2));
    }

    @Test
    void a_higher_epoch_that_confirms_the_role_leaves_no_gap_and_no_more_time() {
        believe(ONE, ACTIVE, 5, 1000);
        assertEquals(STORE_FIRST, answer(ONE, send(), marker(ACTIVE, 6, 10_000)));
        assertTrue(users());
        clock.pass(1000); // the disk is slow: the old marker ends when it would have
        assertFalse(users());
        gate.tick();
        assertEquals(Reason.EXPIRED, last().reason());
    }

    @Test
    void a_bridge_falls_with_the_first_marker_that_says_otherwise() {
        believe(ONE, ACTIVE, 5, 10_000);
        answer(ONE, send(), marker(ACTIVE, 6, 10_000));
        answer(TWO, send(), marker(NONE, 6, 10_000));
        assertClosed();
    }

    @Test
    void an_epoch_that_another_process_stored_counts_here() {
        believe(ONE, ACTIVE, 5, 10_000);
        answer(ONE, send(), marker(ACTIVE, 6, 10_000));
        gate.stored(9);
        assertClosed();
        assertEquals(REFUSED, answer(ONE, send(), marker(ACTIVE, 6, 10_000)));
        assertEquals(9, gate.seenEpoch());
    }

    // Refused markers

    @Test
    void a_refused_marker_neither_extends_nor_shortens() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(500);
        String[][] foreign = {{"other", "dc-a", "c1"}, {"lab", "dc-b", "c1"}, {"lab", "dc-a", "c2"}};
        Reason[] reasons = {Reason.FOREIGN_SCOPE, Reason.FOREIGN_DC, Reason.FOREIGN_CLUSTER};
        for (int i = 0; i < foreign.length; i++) {
            for (Role role : Role.values()) {
                Marker marker = new Marker(foreign[i][0], foreign[i][1], foreign[i][2], 99, role, "v", 9000, clock.wallMs());
                assertEquals(REFUSED, answer(ONE, send(), marker));
                assertEquals(reasons[i], last().reason());
            }
        }
        gate.refuse(ONE, Reason.UNREADABLE, "x");
        assertEquals(REFUSED, answer(ONE, send(), marker(NONE, 5, 60_001)));
        assertEquals(5, gate.seenEpoch());
        assertTrue(users());
        clock.pass(500);
        assertFalse(users());
    }

    @Test
    void a_stale_or_skewed_marker_of_a_higher_epoch_closes_at_once() {
        for (Role role : Role.values()) {
            gate = newGate(5);
            believe(ONE, ACTIVE, 5, 10_000);
            assertEquals(REFUSED, answer(TWO, send(), marker(role, 6, 10_000, clock.wallMs() - 45_000)));
            assertClosed();
            assertEquals(6, gate.unstoredEpoch());
            assertEquals(REFUSED, answer(ONE, send(), marker(ACTIVE, 5, 10_000)));
            assertClosed();
        }
    }

    @Test
    void a_stale_or_skewed_none_of_the_same_epoch_closes_at_once_and_a_later_question_may_open() {
        believe(ONE, ACTIVE, 5, 10_000);
        clock.pass(1);
        assertEquals(REFUSED, answer(TWO, send(), marker(NONE, 5, 10_000, clock.wallMs() - 45_000)));
        assertClosed();
        believe(ONE, ACTIVE, 5, 10_000);
        assertTrue(users());
    }

    @Test
    void a_skewed_marker_of_the_same_epoch_and_another_role_changes_nothing() {
        believe(ONE, ACTIVE, 5, 10_000);
        assertEquals(REFUSED, answer(TWO, send(), marker(STANDBY, 5, 10_000, clock.wallMs() - 45_000)));
        assertTrue(users());
    }

    @Test
    void a_refusal_is_told_once_until_its_reason_changes_or_the_agent_is_believed_again() {
        believe(ONE, ACTIVE, 5, 10_000);
        for (int i = 0; i < 5; i++) {
            gate.refuse(ONE, Reason.UNREACHABLE, "attempt " + i);
        }
        gate.refuse(ONE, Reason.UNREADABLE, "x");
        believe(ONE, ACTIVE, 5, 10_000);
        believe(ONE, ACTIVE, 5, 10_000);
        assertEquals(List.of("UNKNOWN 5 started", "ACTIVE 5 marker", "ACTIVE 5 unreachable", "ACTIVE 5 unreadable",
            "ACTIVE 5 agent-answers"), lines());
    }

    // Two agents

    @Test
    void two_agents_that_agree_carry_each_other() {
        believe(ONE, ACTIVE, 5, 1000);
        clock.pass(500);
        believe(TWO, ACTIVE, 5, 1000);
        clock.pass(700);
        assertTrue(users());
        gate.tick();
        assertTrue(users());
        clock.pass(300);
        assertFalse(users());
    }

    @Test
    void the_less_permissive_of_two_agents_wins_while_it_is_valid() {
        believe(ONE, ACTIVE, 5, 10_000);
        believe(TWO, NONE, 5, 1000);
        assertClosed();
        assertEquals(Reason.AGENTS_DISAGREE, last().reason());
        believe(ONE, ACTIVE, 5, 10_000);
        assertClosed();
        clock.pass(1000);
        gate.tick();
        assertTrue(users());
    }

    @Test
    void active_and_standby_of_one_epoch_open_neither_gate() {
        believe(ONE, ACTIVE, 5, 10_000);
        believe(TWO, STANDBY, 5, 10_000);
        assertClosed();
    }

    @Test
    void a_closing_that_runs_out_does_not_reopen_what_was_asked_for_before_it() {
        believe(ONE, ACTIVE, 5, 10_000); // frozen from here on
        clock.pass(10);
        believe(TWO, NONE, 5, 1000);
        clock.pass(1000); // the acting agent died: its word has run out, the frozen one's has not
        gate.tick();
        assertClosed();
        assertEquals(Reason.ASKED_BEFORE_CLOSING, last().reason());
    }

    @Test
    void an_answer_to_a_question_from_before_a_closing_is_asked_for_again() {
        Sent before = send();
        clock.pass(10);
        believe(TWO, NONE, 5, 100);
        clock.pass(100);
        assertEquals(ASK_AGAIN, answer(ONE, before, marker(ACTIVE, 5, 10_000)));
        assertClosed();
        assertEquals(BELIEVED, answer(ONE, send(), marker(ACTIVE, 5, 10_000)));
        assertTrue(users());
    }

    @Test
    void a_stale_agent_has_no_say_once_the_acting_one_named_a_later_epoch() {
        for (Role late : Role.values()) {
            for (Role acting : Role.values()) {
                gate = newGate(5);
                answer(TWO, send(), marker(late, 6, 10_000));
                gate.stored(6);
                believe(TWO, late, 6, 10_000);
                Sent sent = send();
                answer(ONE, sent, marker(acting, 7, 10_000));
                gate.stored(7);
                assertEquals(BELIEVED, answer(ONE, sent, marker(acting, 7, 10_000)));
                assertEquals(REFUSED, answer(TWO, send(), marker(late, 6, 10_000)));
                assertEquals(acting == ACTIVE, users(), late + " " + acting);
                assertEquals(acting == STANDBY, mirror(), late + " " + acting);
            }
        }
    }

    // Its end

    @Test
    void a_stopped_gate_stays_closed() {
        believe(ONE, ACTIVE, 5, 10_000);
        gate.stop();
        assertClosed();
        assertEquals(REFUSED, answer(ONE, send(), marker(ACTIVE, 5, 10_000)));
        gate.stored(8);
        gate.tick();
        gate.refuse(ONE, Reason.UNREACHABLE, "x");
        assertClosed();
        assertEquals(List.of("UNKNOWN 5 started", "ACTIVE 5 marker", "UNKNOWN 5 stopped"), lines());
    }

    private record Sent(long ns, long wallMs) {
    }

    private Gate newGate(long epoch) {
        changes.clear();
        return new Gate("lab", "dc-a", "c1", epoch, SKEW_MS, 60_000, clock, changes::add);
    }

    private Sent send() {
        return new Sent(clock.nanoTime(), clock.wallMs());
    }

    private Gate.Verdict answer(String agent, Sent sent, Marker marker) {
        return gate.offer(agent, marker, sent.ns(), sent.wallMs());
    }

    private void believe(String agent, Role role, long epoch, long validMs) {
        assertEquals(BELIEVED, answer(agent, send(), marker(role, epoch, validMs)));
    }

    private Marker marker(Role role, long epoch, long validMs) {
        return marker(role, epoch, validMs, clock.wallMs());
    }

    private Marker marker(Role role, long epoch, long validMs, long wallMs) {
        return new Marker("lab", "dc-a", "c1", epoch, role, "v", validMs, wallMs);
    }

    private boolean users() {
        return gate.decision().usersOpen(clock);
    }

    private boolean mirror() {
        return gate.decision().mirrorOpen(clock);
    }

    private void assertClosed() {
        assertFalse(users());
        assertFalse(mirror());
    }

    private Change last() {
        return changes.get(changes.size() - 1);
    }

    private List<String> lines() {
        return changes.stream().map(each -> each.roleWord() + " " + each.epoch() + " " + each.reason()).toList();
    }
}
