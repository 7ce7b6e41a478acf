package dcdr.authorizer;

import com.sun.management.ThreadMXBean;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.Authorizer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/** `authorize()` allocates what the wrapped authorizer allocates, and not a byte more. */
class AllocationTest {

    private static final int CALLS = 20_000;

    @TempDir
    Path folder;

    @Test
    void a_call_allocates_what_the_wrapped_authorizer_allocates() throws Exception {
        try (StubAgent agent = StubAgent.http(0); Bare bare = new Bare()) {
            agent.say(Role.ACTIVE, 1);
            agent.validMs = 59_000;
            try (Node node = new Node(folder, Map.of(), agent.address())) {
                Waiting.until("users are let in", node::users);
                agent.behaviour = (question, out) -> Thread.sleep(60_000); // nothing else happens while we measure
                Map<String, List<Action>> calls = Map.of(
                    "produce to one topic", topics(AclOperation.WRITE, 1),
                    "produce to 100 topics", topics(AclOperation.WRITE, 100),
                    "fetch of 10 topics", topics(AclOperation.READ, 10),
                    "describe", topics(AclOperation.DESCRIBE, 1),
                    "a transactional id", List.of(Request.action(AclOperation.WRITE, ResourceType.TRANSACTIONAL_ID, "pay")),
                    "the cluster", List.of(Request.action(AclOperation.CREATE, ResourceType.CLUSTER, "kafka-cluster")),
                    "a group", List.of(Request.action(AclOperation.READ, ResourceType.GROUP, "billing")));
                for (String user : List.of("app", "admin", "mirror")) {
                    for (Map.Entry<String, List<Action>> call : calls.entrySet()) {
                        if (user.equals("mirror") && node.authorizer.authorize(Request.of(user), call.getValue()).toString().contains("DENIED")) {
                            continue; // a denial builds its own answer
                        }
                        long wrapped = bytesACall(node.authorizer, user, call.getValue());
                        long plain = bytesACall(bare.authorizer, user, call.getValue());
                        assertEquals(plain, wrapped, user + ": " + call.getKey());
                        assertTrue(plain > 0, "the measurement must see something");
                    }
                }
            }
        }
    }

    /** The least of several rounds: what the JIT or a metric allocates now and then is not what a call allocates. */
    private static long bytesACall(Authorizer authorizer, String user, List<Action> actions) {
        ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
        long self = Thread.currentThread().getId();
        Request request = Request.of(user, ApiKeys.PRODUCE);
        int calls = CALLS / actions.size();
        long least = Long.MAX_VALUE;
        for (int round = 0; round < 12; round++) {
            long before = threads.getThreadAllocatedBytes(self);
            for (int i = 0; i < calls; i++) {
                authorizer.authorize(request, actions);
            }
            least = Math.min(least, (threads.getThreadAllocatedBytes(self) - before) / calls);
        }
        return least;
    }

    private static List<Action> topics(AclOperation operation, int count) {
        return IntStream.range(0, count).mapToObj(i -> Request.action(operation, ResourceType.TOPIC, "orders-" + i)).toList();
    }

    /** The broker's own authorizer with the same ACLs. */
    private static final class Bare implements AutoCloseable {
        private final StandardAuthorizer authorizer = new StandardAuthorizer();

        Bare() {
            authorizer.configure(Map.of("node.id", "3", "super.users", "User:admin;User:mirror;User:broker;User:dcdr"));
            Node.ready(authorizer);
        }

        @Override
        public void close() throws Exception {
            authorizer.close();
        }
    }
}
