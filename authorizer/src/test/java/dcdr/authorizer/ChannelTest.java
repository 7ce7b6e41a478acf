package dcdr.authorizer;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

/** The authorizer against agents on real sockets, most of it over TLS with certificates on both sides, and with real clocks. */
@Timeout(60)
class ChannelTest {

    enum Transport { HTTPS, HTTP, UNIX }

    @TempDir
    Path folder;
    private Certificates authority;
    private TlsFiles agentFiles;
    private TlsFiles brokerFiles;
    private final List<AutoCloseable> toClose = new ArrayList<>();

    @BeforeEach
    void certificates() throws Exception {
        authority = new Certificates("authority");
        agentFiles = authority.issue(folder, "agent", "EC");
        brokerFiles = authority.issue(folder, "broker", "EC");
    }

    @AfterEach
    void close() throws Exception {
        for (int i = toClose.size() - 1; i >= 0; i--) {
            toClose.get(i).close();
        }
    }

    @ParameterizedTest
    @EnumSource(Transport.class)
    void a_change_is_answered_at_once_and_one_question_is_pending_at_any_time(Transport transport) throws Exception {
        StubAgent agent = agent(transport);
        agent.refreshMs = 5_000;
        agent.validMs = 20_000;
        agent.say(Role.STANDBY, 4);
        Node node = node(Map.of("dcdr.authorizer.request.timeout.ms", "6000"), agent);
        Waiting.until("the mirror is let in", node::mirror);
        Waiting.until("the next question is pending", () -> agent.pending.get() == 1 && agent.questions.size() == 2);
        assertEquals("4", agent.questions.get(1).get("epoch"));
        assertEquals("v1", agent.questions.get(1).get("version"));
        assertEquals("", agent.questions.get(0).get("version"));
        assertEquals("0", agent.questions.get(0).get("epoch"));
        assertEquals(Map.of("cluster", "c1", "node", "3", "process", "broker"), agent.questions.get(0).parameters().entrySet().stream()
            .filter(each -> Set.of("cluster", "node", "process").contains(each.getKey())).collect(Collectors.toMap(Map.Entry::getKey, Map.Entry::getValue)));
        long before = System.nanoTime();
        agent.say(Role.NONE, 4);
        Waiting.until("the mirror is kept out", () -> !node.mirror());
        long tookMs = (System.nanoTime() - before) / 1_000_000L;
        assertTrue(tookMs < 1_000, "a change took " + tookMs + " ms and the refresh period is 5000");
        Waiting.until("again one question is pending", () -> agent.pending.get() == 1 && agent.questions.size() == 3);
    }

    @ParameterizedTest
    @EnumSource(Transport.class)
    void an_agent_that_dies_leaves_its_last_word_until_it_runs_out_and_that_is_told_when_it_happens(Transport transport) throws Exception {
        StubAgent agent = agent(transport);
        agent.validMs = 1_000;
        agent.say(Role.ACTIVE, 4);
        Node node = node(Map.of(), agent);
        Waiting.until("users are let in", node::users);
        agent.close();
        long lastHeard = agent.questions.get(agent.questions.size() - 1).atNs();
        // No request is made from here on: the timer alone must tell.
        Waiting.until("the expiry is told", () -> node.reasons().contains("expired"));
        JsonNode expired = node.trace().stream().filter(line -> line.get("reason").textValue().equals("expired")).findFirst().orElseThrow();
        assertEquals("closed", expired.get("users").textValue());
        // The agent hears a question after it was sent, so the end lies before the last one it heard plus the validity.
        assertTrue(expired.get("mono_ns").longValue() - lastHeard <= 1_000_000_000L);
        assertTrue(expired.get("mono_ns").longValue() - mono(node, "marker") > 0);
        assertFalse(node.users());
        assertTrue(node.reasons().contains("unreachable"), node.reasons().toString());
        assertEquals(1, node.reasons().stream().filter("expired"::equals).count());
        assertEquals(1, node.reasons().stream().filter("unreachable"::equals).count());
    }

    @ParameterizedTest
    @EnumSource(value = Transport.class, names = {"HTTPS", "HTTP"})
    void an_agent_that_restarts_within_the_validity_is_not_noticed_by_users(Transport transport) throws Exception {
        StubAgent agent = agent(transport);
        agent.say(Role.ACTIVE, 4);
        Node node = node(Map.of(), agent);
        Waiting.until("users are let in", node::users);
        agent.close();
        Waiting.until("the agent is missed", () -> node.reasons().contains("unreachable"));
        StubAgent again = keep(transport == Transport.HTTPS ? StubAgent.https(agent.port(), agentFiles) : StubAgent.http(agent.port()));
        again.say(Role.ACTIVE, 4);
        Waiting.until("the agent is heard again", () -> node.reasons().contains("agent-answers"));
        assertEquals(List.of("started", "storing-epoch", "marker", "unreachable", "agent-answers"), node.reasons());
        assertTrue(node.users());
    }

    @ParameterizedTest
    @EnumSource(value = Transport.class, names = {"HTTPS", "UNIX"})
    void answers_that_are_no_marker_are_refused_and_the_gate_runs_out(Transport transport) throws Exception {
        StubAgent agent = agent(transport);
        Map<String, StubAgent.Behaviour> bad = new HashMap<>();
        bad.put("unreadable", (question, out) -> StubAgent.ok(out, "{\"role\":\"ACTIVE\"}"));
        bad.put("oversized", (question, out) -> StubAgent.ok(out, " ".repeat(Marker.MAX_BYTES + 1)));
        bad.put("no-marker-served", (question, out) -> StubAgent.raw(out, "HTTP/1.1 503 Not Acting\r\nContent-Length: 0\r\n\r\n"));
        bad.put("foreign-cluster", (question, out) -> StubAgent.ok(out, agent.marker("").replace("\"c1\"", "\"c2\"")));
        bad.put("foreign-scope", (question, out) -> StubAgent.ok(out, agent.marker("").replace("\"lab\"", "\"prod\"")));
        bad.put("foreign-dc", (question, out) -> StubAgent.ok(out, agent.marker("").replace("\"dc-a\"", "\"dc-b\"")));
        bad.put("clock-skew", (question, out) -> StubAgent.ok(out, agent.marker("").replaceAll("\"wall_ms\":\\d+", "\"wall_ms\":5")));
        bad.put("stale", (question, out) -> StubAgent.ok(out, agent.marker("").replaceAll("\"valid_ms\":\\d+", "\"valid_ms\":0")));
        bad.put("lower-epoch", (question, out) -> StubAgent.ok(out, agent.marker("").replaceAll("\"epoch\":\\d+", "\"epoch\":3")));
        agent.say(Role.ACTIVE, 4);
        agent.validMs = 600;
        Node node = node(Map.of(), agent);
        for (Map.Entry<String, StubAgent.Behaviour> each : bad.entrySet()) {
            agent.behaviour = null;
            Waiting.until("users are let in before " + each.getKey(), node::users);
            agent.behaviour = each.getValue();
            Waiting.until(each.getKey() + " is told", () -> node.reasons().contains(each.getKey()));
            Waiting.until("the gate ran out after " + each.getKey(), () -> !node.users());
        }
    }

    @ParameterizedTest
    @EnumSource(value = Transport.class, names = {"HTTPS", "UNIX"})
    void broken_connections_and_half_answers_are_found_and_survived(Transport transport) throws Exception {
        StubAgent agent = agent(transport);
        List<StubAgent.Behaviour> bad = List.of(
            (question, out) -> StubAgent.raw(out, "\u0000\u0001 garbage \r\n\r\n\r\n"),
            (question, out) -> out.close(),
            (question, out) -> {
                StubAgent.raw(out, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"scope\"");
                out.close();
            },
            (question, out) -> StubAgent.raw(out, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
            (question, out) -> {
                // A body that comes byte by byte: each read succeeds, the whole never ends in time.
                StubAgent.raw(out, "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n");
                for (int i = 0; i < 30; i++) {
                    Thread.sleep(100);
                    StubAgent.raw(out, " ");
                }
            },
            // Silence on an open connection, as after a cut that dropped both ends' packets.
            (question, out) -> Thread.sleep(2_500),
            (question, out) -> {
                StubAgent.raw(out, "HTTP/1.1 200 OK\r\n");
                for (int i = 0; i < 4_000; i++) {
                    StubAgent.raw(out, "X-More: and more and more and more and more and more and more and more and more\r\n");
                }
            });
        agent.say(Role.ACTIVE, 4);
        agent.validMs = 900;
        Node node = node(Map.of("dcdr.authorizer.request.timeout.ms", "600"), agent);
        for (int i = 0; i < bad.size(); i++) {
            agent.behaviour = null;
            Waiting.until("users are let in before case " + i, node::users);
            agent.behaviour = bad.get(i);
            Waiting.until("the gate ran out in case " + i, () -> !node.users());
        }
        agent.behaviour = null;
        Waiting.until("users are let in at last", node::users);
    }

    @Test
    void an_answer_that_was_long_under_way_counts_from_its_question() throws Exception {
        StubAgent agent = agent(Transport.HTTPS);
        agent.validMs = 800;
        agent.say(Role.ACTIVE, 4);
        agent.behaviour = (question, out) -> {
            String marker = agent.marker("");
            Thread.sleep(question.get("version").isEmpty() ? 500 : 60_000);
            StubAgent.ok(out, marker);
        };
        Node node = node(Map.of(), agent);
        Waiting.until("users are let in", node::users);
        Waiting.until("the marker has run out", () -> node.reasons().contains("expired"));
        long opened = mono(node, "marker");
        long ended = mono(node, "expired");
        assertTrue(ended - opened < 320_000_000L, "open for " + (ended - opened) / 1_000_000 + " ms; 800 from the question are 300 from the answer");
    }

    @Test
    void an_agent_with_a_certificate_of_another_authority_is_not_believed() throws Exception {
        TlsFiles other = new Certificates("other").issue(folder, "impostor", "EC");
        // It trusts our broker's authority, so only the broker can refuse.
        StubAgent impostor = keep(StubAgent.https(0, new TlsFiles(other.certificate(), other.key(), brokerFiles.ca())));
        impostor.say(Role.ACTIVE, 4);
        Node node = node(Map.of(), impostor);
        Waiting.until("it is refused", () -> node.reasons().contains("unreachable"));
        assertEquals(0, impostor.questions.size());
        assertFalse(node.users());
    }

    @Test
    void a_broker_with_a_certificate_of_another_authority_is_not_served() throws Exception {
        StubAgent agent = agent(Transport.HTTPS);
        agent.say(Role.ACTIVE, 4);
        TlsFiles other = new Certificates("other").issue(folder, "stranger", "EC");
        brokerFiles = new TlsFiles(other.certificate(), other.key(), brokerFiles.ca());
        Node node = node(Map.of(), agent);
        Waiting.until("it is refused", () -> node.reasons().contains("unreachable"));
        assertEquals(0, agent.questions.size());
    }

    @Test
    void a_certificate_renewed_on_disk_is_used_without_a_restart_and_a_half_written_one_does_no_harm() throws Exception {
        StubAgent agent = agent(Transport.HTTPS);
        agent.say(Role.ACTIVE, 4);
        Node node = node(Map.of(), agent);
        Waiting.until("users are let in", node::users);
        TlsFiles renewed = authority.issue(folder, "renewed", "RSA");
        Files.move(renewed.certificate(), brokerFiles.certificate(), StandardCopyOption.REPLACE_EXISTING);
        Waiting.until("the half is told", () -> node.reasons().contains("tls-files"));
        assertTrue(node.users());
        Files.move(renewed.key(), brokerFiles.key(), StandardCopyOption.REPLACE_EXISTING);
        assertTrue(agent.questions.stream().allMatch(each -> each.who().equals("CN=broker")));
        // No connection is cut: a renewed certificate makes its own.
        Waiting.until("questions go on with the renewed one", () -> agent.questions.get(agent.questions.size() - 1).who().equals("CN=renewed"));
        assertTrue(node.users());
        assertEquals(1, node.reasons().stream().filter("tls-files"::equals).count());
    }

    @Test
    void of_two_agents_the_silent_one_does_no_harm_and_the_restrictive_one_wins() throws Exception {
        StubAgent one = agent(Transport.HTTPS);
        StubAgent two = agent(Transport.UNIX);
        one.say(Role.ACTIVE, 4);
        two.say(Role.ACTIVE, 4);
        two.validMs = 700;
        Node node = node(Map.of(), one, two);
        Waiting.until("users are let in", node::users);
        two.behaviour = (question, out) -> Thread.sleep(600);
        Waiting.until("the second is silent for longer than its validity", () -> node.reasons().contains("unreachable"));
        assertTrue(node.users());
        two.behaviour = null;
        Waiting.until("the second is heard again", () -> node.reasons().contains("agent-answers"));
        two.say(Role.NONE, 4);
        Waiting.until("users are kept out", () -> !node.users());
        two.say(Role.ACTIVE, 4);
        Waiting.until("users are let in once more", node::users);
        two.say(Role.ACTIVE, 5);
        Waiting.until("the first is behind", () -> node.reasons().contains("lower-epoch"));
        assertTrue(node.users());
    }

    @Test
    void a_restart_remembers_the_epoch_and_starts_closed() throws Exception {
        StubAgent agent = agent(Transport.HTTPS);
        agent.say(Role.ACTIVE, 9);
        Node first = node(Map.of(), agent);
        Waiting.until("users are let in", first::users);
        first.close();
        assertFalse(first.users());
        agent.say(Role.ACTIVE, 8);
        Node second = node(Map.of(), agent);
        assertFalse(second.users());
        Waiting.until("the older epoch is refused", () -> second.reasons().contains("lower-epoch"));
        assertFalse(second.users());
        agent.say(Role.ACTIVE, 9);
        Waiting.until("the same epoch is believed", second::users);
        assertTrue(agent.questions.stream().anyMatch(each -> "9".equals(each.get("epoch")) && each.get("version").isEmpty()));
    }

    @Test
    void two_instances_of_one_node_share_the_epoch_file() throws Exception {
        StubAgent one = agent(Transport.HTTP);
        StubAgent two = agent(Transport.HTTP);
        one.say(Role.ACTIVE, 9);
        two.say(Role.ACTIVE, 7);
        Node broker = node(Map.of(), one);
        Waiting.until("users are let in at the broker", broker::users);
        Node controller = keep(new Node(folder, "controller", Clock.SYSTEM, Map.of(), two.address()));
        assertEquals(9, controller.trace().isEmpty() ? 9 : controller.trace().get(0).get("epoch").longValue());
        Waiting.until("the controller refuses 7", () -> controller.reasons().contains("lower-epoch"));
        assertFalse(controller.users());
        two.say(Role.ACTIVE, 11);
        Waiting.until("users are let in at the controller", controller::users);
        assertEquals("controller", two.questions.get(0).get("process"));
        one.say(Role.ACTIVE, 10);
        Waiting.until("the broker finds 11 in the file", () -> broker.reasons().contains("lower-epoch"));
        assertFalse(broker.users());
        controller.close();
        one.say(Role.ACTIVE, 12);
        Waiting.until("the broker goes on without the controller's instance", broker::users);
    }

    @Test
    void a_damaged_epoch_file_keeps_both_gates_closed_until_it_is_mended_and_no_restart_is_needed() throws Exception {
        Files.writeString(folder.resolve("epoch"), "{\"epoch\"");
        StubAgent agent = agent(Transport.HTTPS);
        agent.say(Role.ACTIVE, 9);
        Node node = node(Map.of(), agent);
        Waiting.until("it is told", () -> node.reasons().contains("epoch-file"));
        assertTrue(node.trace().stream().anyMatch(line -> line.get("detail").asText().contains("Look up the epoch")));
        Waiting.until("the agent was asked and not believed", () -> agent.questions.size() > 2);
        assertFalse(node.users());
        assertFalse(node.mirror());
        Files.delete(folder.resolve("epoch"));
        Waiting.until("users are let in", node::users);
        assertTrue(Files.readString(folder.resolve("epoch")).contains("\"epoch\":9"));
    }

    @Test
    void closing_ends_every_thread_of_ours_and_never_lets_anyone_in_again() throws Exception {
        StubAgent agent = agent(Transport.HTTPS);
        StubAgent mute = agent(Transport.UNIX);
        mute.behaviour = (question, out) -> Thread.sleep(5_000);
        agent.say(Role.ACTIVE, 9);
        Set<String> before = threads();
        Node node = node(Map.of("dcdr.authorizer.request.timeout.ms", "6000"), agent, mute);
        Waiting.until("users are let in", node::users);
        long began = System.nanoTime();
        node.close();
        assertTrue(System.nanoTime() - began < 3_000_000_000L, "closing waits for no agent");
        assertFalse(node.users());
        Waiting.until("no thread is left: " + threads(), () -> before.containsAll(threads()));
        assertEquals("stopped", node.reasons().get(node.reasons().size() - 1));
    }

    private static Set<String> threads() {
        return Thread.getAllStackTraces().keySet().stream().map(Thread::getName).filter(name -> name.startsWith("dcdr-gate"))
            .collect(Collectors.toSet());
    }

    private static long mono(Node node, String reason) {
        return node.trace().stream().filter(line -> line.get("reason").textValue().equals(reason)).findFirst().orElseThrow()
            .get("mono_ns").longValue();
    }

    private StubAgent agent(Transport transport) throws Exception {
        return keep(switch (transport) {
            case HTTPS -> StubAgent.https(0, agentFiles);
            case HTTP -> StubAgent.http(0);
            case UNIX -> StubAgent.unix(folder.resolve("agent-" + toClose.size() + ".sock"));
        });
    }

    private Node node(Map<String, String> more, StubAgent... agents) throws Exception {
        Map<String, String> settings = new HashMap<>(more);
        settings.put("dcdr.authorizer.tls.certificate", brokerFiles.certificate().toString());
        settings.put("dcdr.authorizer.tls.key", brokerFiles.key().toString());
        settings.put("dcdr.authorizer.tls.ca", brokerFiles.ca().toString());
        String[] addresses = new String[agents.length];
        for (int i = 0; i < agents.length; i++) {
            addresses[i] = agents[i].address();
        }
        return keep(new Node(folder, "broker", Clock.SYSTEM, settings, addresses));
    }

    private <T extends AutoCloseable> T keep(T closeable) {
        toClose.add(closeable);
        return closeable;
    }
}
