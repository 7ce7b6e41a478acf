package dcdr.authorizer;

import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizationResult;
import org.apache.kafka.server.authorizer.Authorizer;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** What a call of `authorize()` costs behind the open gate, and what the broker's own authorizer costs for the same call. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(value = 2, jvmArgs = {"-Xmx256m", "-XX:+UseSerialGC"})
public class AuthorizeBenchmark {

    @Param({"bare", "wrapped"})
    public String authorizer;

    @Param({"app", "admin"})
    public String user;

    private final List<Action> produce = topics(AclOperation.WRITE, 1);
    private final List<Action> fetch = topics(AclOperation.READ, 10);
    private final List<Action> describe = topics(AclOperation.DESCRIBE, 1);
    private Authorizer subject;
    private Request produceRequest;
    private Request fetchRequest;
    private Request metadataRequest;
    private AutoCloseable toClose;
    private Path folder;
    private StubAgent agent;

    /** Build the authorizer of this run and wait for its gate to open. */
    @Setup(Level.Trial)
    public void start() throws Exception {
        agent = StubAgent.http(0);
        agent.say(Role.ACTIVE, 1);
        if (authorizer.equals("bare")) {
            StandardAuthorizer bare = new StandardAuthorizer();
            bare.configure(Map.of("node.id", "3", "super.users", "User:admin;User:mirror;User:broker;User:dcdr"));
            Node.ready(bare);
            subject = bare;
            toClose = bare;
        } else {
            folder = Files.createTempDirectory("authorize-benchmark");
            Node node = new Node(folder, Map.of(), agent.address());
            Waiting.until("users are let in", node::users);
            subject = node.authorizer;
            toClose = node;
        }
        produceRequest = Request.of(user, ApiKeys.PRODUCE);
        fetchRequest = Request.of(user, ApiKeys.FETCH);
        metadataRequest = Request.of(user, ApiKeys.METADATA);
    }

    /** End the threads of this run. */
    @TearDown(Level.Trial)
    public void stop() throws Exception {
        toClose.close();
        agent.close();
        if (folder != null) {
            try (Stream<Path> all = Files.walk(folder)) {
                for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(path);
                }
            }
        }
    }

    /** A produce request to one topic: gated, so both clocks are read. */
    @Benchmark
    public List<AuthorizationResult> produceOneTopic() {
        return subject.authorize(produceRequest, produce);
    }

    /** A fetch of ten topics: nothing of it is gated. */
    @Benchmark
    public List<AuthorizationResult> fetchTenTopics() {
        return subject.authorize(fetchRequest, fetch);
    }

    /** A describe: nothing of it is gated. */
    @Benchmark
    public List<AuthorizationResult> describeOneTopic() {
        return subject.authorize(metadataRequest, describe);
    }

    /** What the gates add to a produce request, alone. */
    @Benchmark
    public int gatesOfAProduce() {
        return subject instanceof MarkerAuthorizer gated ? gated.passing(produceRequest, produce) : 0;
    }

    /** What the gates add to a fetch of ten topics, alone. */
    @Benchmark
    public int gatesOfAFetch() {
        return subject instanceof MarkerAuthorizer gated ? gated.passing(fetchRequest, fetch) : 0;
    }

    private static List<Action> topics(AclOperation operation, int count) {
        return IntStream.range(0, count).mapToObj(i -> Request.action(operation, ResourceType.TOPIC, "orders-" + i)).toList();
    }
}
