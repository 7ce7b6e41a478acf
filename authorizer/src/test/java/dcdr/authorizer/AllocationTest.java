package dcdr.authorizer;

import com.sun.management.ThreadMXBean;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.Authorizer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/**
 * `authorize()` allocates what the wrapped authorizer allocates, and not a byte more.
 *
 * <p>Measured in a JVM that only interprets: a compiler removes some allocations, in the wrapped call others than in the bare one,
 * and what must not be there at all must not depend on it.
 */
class AllocationTest {

    @TempDir
    Path folder;

    @Test
    void a_call_allocates_what_the_wrapped_authorizer_allocates() throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        Process measuring = new ProcessBuilder(java, "-Xint", "-Xmx128m", "-XX:+UseSerialGC", "-cp", System.getProperty("java.class.path"),
            Measurement.class.getName(), folder.toString()).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            String told = new String(measuring.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            assertTrue(measuring.waitFor(60, TimeUnit.SECONDS), "not done in 60 s");
            assertEquals(0, measuring.exitValue(), told);
            List<String> measured = told.lines().filter(line -> line.startsWith("bytes ")).toList();
            assertEquals(21, measured.size(), told);
            for (String line : measured) {
                String[] parts = line.split(" ", 4);
                assertTrue(Long.parseLong(parts[1]) > 0, "the measurement must see something: " + line);
                assertEquals(parts[1], parts[2], parts[3]);
            }
        } finally {
            measuring.destroyForcibly();
        }
    }

    /** Prints `bytes BARE WRAPPED WHAT` a line. */
    static final class Measurement {

        private static final int CALLS = 200;

        public static void main(String[] arguments) throws Exception {
            StandardAuthorizer bare = new StandardAuthorizer();
            bare.configure(Map.of("node.id", "3", "super.users", "User:admin;User:mirror;User:broker;User:dcdr"));
            Node.ready(bare);
            try (StubAgent agent = StubAgent.http(0)) {
                agent.say(Role.ACTIVE, 1);
                agent.validMs = 59_000;
                try (Node node = new Node(Path.of(arguments[0]), Map.of(), agent.address())) {
                    Waiting.until("users are let in", node::users);
                    measure(bare, node.authorizer, "app");
                    measure(bare, node.authorizer, "admin");
                    agent.say(Role.STANDBY, 2);
                    Waiting.until("the mirror is let in", node::mirror);
                    measure(bare, node.authorizer, "mirror");
                }
            }
        }

        private static void measure(Authorizer bare, Authorizer wrapped, String user) {
            Map<String, List<Action>> calls = new LinkedHashMap<>();
            calls.put("produce to one topic", topics(AclOperation.WRITE, 1));
            calls.put("produce to 100 topics", topics(AclOperation.WRITE, 100));
            calls.put("fetch of 10 topics", topics(AclOperation.READ, 10));
            calls.put("describe", topics(AclOperation.DESCRIBE, 1));
            calls.put("a transactional id", List.of(Request.action(AclOperation.WRITE, ResourceType.TRANSACTIONAL_ID, "pay")));
            calls.put("the cluster", List.of(Request.action(AclOperation.CREATE, ResourceType.CLUSTER, "kafka-cluster")));
            calls.put("a group", List.of(Request.action(AclOperation.READ, ResourceType.GROUP, "billing")));
            calls.forEach((what, actions) -> System.out.println(
                "bytes " + bytesACall(bare, user, actions) + " " + bytesACall(wrapped, user, actions) + " " + user + ": " + what));
        }

        /** The least of several rounds: what a metric's window allocates now and then is not what a call allocates. */
        private static long bytesACall(Authorizer authorizer, String user, List<Action> actions) {
            ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
            long self = Thread.currentThread().getId();
            Request request = Request.of(user);
            long least = Long.MAX_VALUE;
            for (int round = 0; round < CALLS; round++) {
                long before = threads.getThreadAllocatedBytes(self);
                authorizer.authorize(request, actions);
                least = Math.min(least, threads.getThreadAllocatedBytes(self) - before);
            }
            return least;
        }

        private static List<Action> topics(AclOperation operation, int count) {
            return IntStream.range(0, count).mapToObj(i -> Request.action(operation, ResourceType.TOPIC, "orders-" + i)).toList();
        }
    }
}
