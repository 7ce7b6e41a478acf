package dcdr.authorizer;

import kafka.server.KafkaConfig;
import kafka.server.KafkaRaftServer;
import kafka.tools.StorageTool;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.GroupAuthorizationException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.apache.kafka.common.errors.TransactionalIdAuthorizationException;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Time;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

/** A real broker and controller in one process with the authorizer, real clients, and an agent whose word changes. One story, in order. */
@Timeout(120)
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class BrokerTest {

    private static final List<String> USERS = List.of("admin", "broker", "mirror", "dcdr", "app");
    private static final Duration LIMIT = Duration.ofSeconds(20);

    @TempDir
    static Path folder;
    private static StubAgent agent;
    private static KafkaRaftServer server;
    private static String bootstrap;

    @BeforeAll
    static void start() throws Exception {
        agent = StubAgent.http(0);
        agent.cluster = Uuid.randomUuid().toString();
        agent.validMs = 5_000;
        agent.say(Role.NONE, 1);
        int[] ports = freePorts();
        bootstrap = "127.0.0.1:" + ports[0];
        Properties properties = properties(ports);
        Path file = folder.resolve("server.properties");
        try (var out = Files.newOutputStream(file)) {
            properties.store(out, null);
        }
        PrintStream quiet = new PrintStream(new ByteArrayOutputStream());
        assertEquals(0, StorageTool.execute(new String[] {"format", "-t", agent.cluster, "-c", file.toString()}, quiet));
        server = new KafkaRaftServer(KafkaConfig.fromProps(properties), Time.SYSTEM);
        server.startup();
        try (Admin admin = admin("admin")) {
            admin.createAcls(List.of(allow(ResourceType.TOPIC, "*"), allow(ResourceType.TRANSACTIONAL_ID, "*"), allow(ResourceType.GROUP, "*")))
                .all().get();
        }
    }

    @AfterAll
    static void stop() throws Exception {
        if (server != null) {
            server.shutdown();
            server.awaitShutdown();
        }
        agent.close();
    }

    @Test
    @Order(1)
    void nobody_writes_before_a_marker_says_so_and_groups_work_on_a_closed_cluster() throws Exception {
        become(Role.NONE);
        try (Admin admin = admin("admin"); Admin mirror = admin("mirror")) {
            denied(TopicAuthorizationException.class, () -> admin.createTopics(List.of(new NewTopic("orders", 1, (short) 1))).all().get());
            denied(TopicAuthorizationException.class, () -> mirror.createTopics(List.of(new NewTopic("orders", 1, (short) 1))).all().get());
            mirror.createTopics(List.of(new NewTopic("connect-configs", 1, (short) 1))).all().get();
        }
        send("mirror", "connect-configs", "config");
        // The first group of the cluster makes the broker create __consumer_offsets, in its own name, on a closed cluster.
        try (Consumer<String, String> consumer = consumer("mirror", "connect-a")) {
            consumer.subscribe(List.of("connect-configs"));
            assertEquals(1, poll(consumer));
        }
    }

    @Test
    @Order(2)
    void on_an_active_cluster_users_write_and_the_mirror_does_not() throws Exception {
        become(Role.ACTIVE);
        try (Admin admin = admin("admin"); Admin mirror = admin("mirror")) {
            admin.createTopics(List.of(new NewTopic("orders", 1, (short) 1))).all().get();
            denied(TopicAuthorizationException.class, () -> mirror.createTopics(List.of(new NewTopic("other", 1, (short) 1))).all().get());
            denied(TopicAuthorizationException.class, () -> send("mirror", "orders", "x"));
            send("app", "orders", "one");
            send("admin", "orders", "two");
            send("mirror", "connect-configs", "config");
            OffsetAndMetadata zero = new OffsetAndMetadata(0);
            denied(GroupAuthorizationException.class,
                () -> mirror.alterConsumerGroupOffsets("billing", Map.of(new TopicPartition("orders", 0), zero)).all().get());
            admin.alterConsumerGroupOffsets("billing", Map.of(new TopicPartition("orders", 0), zero)).all().get();
        }
        try (KafkaProducer<String, String> task = producer("mirror", "connect-a-source-0")) {
            assertThrows(TransactionalIdAuthorizationException.class, task::initTransactions);
        }
        try (KafkaProducer<String, String> leader = producer("mirror", "connect-cluster-connect-a")) {
            leader.initTransactions();
            leader.beginTransaction();
            leader.send(new ProducerRecord<>("connect-configs", "target-state"));
            leader.commitTransaction();
        }
    }

    @Test
    @Order(3)
    void a_transaction_that_was_open_when_the_gate_closed_cannot_end_and_is_settled_by_fencing() throws Exception {
        become(Role.ACTIVE);
        long before = end(IsolationLevel.READ_COMMITTED);
        try (KafkaProducer<String, String> producer = producer("app", "pay")) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("orders", "never committed")).get();
            become(Role.NONE);
            assertThrows(AuthorizationException.class, producer::commitTransaction);
        }
        assertEquals(before, end(IsolationLevel.READ_COMMITTED));
        try (Admin dcdr = admin("dcdr"); Admin admin = admin("admin")) {
            denied(TransactionalIdAuthorizationException.class, () -> admin.fenceProducers(List.of("pay")).all().get());
            dcdr.fenceProducers(List.of("pay")).all().get();
        }
        Waiting.until("the aborted transaction holds nothing back", () -> {
            try {
                return end(IsolationLevel.READ_COMMITTED) == end(IsolationLevel.READ_UNCOMMITTED);
            } catch (Exception error) {
                throw new AssertionError(error);
            }
        });
    }

    @Test
    @Order(4)
    void on_a_closed_cluster_users_read_and_change_nothing() throws Exception {
        become(Role.ACTIVE);
        become(Role.NONE);
        try (Admin admin = admin("admin")) {
            for (String user : List.of("app", "admin", "mirror", "broker", "dcdr")) {
                denied(TopicAuthorizationException.class, () -> send(user, "orders", "x"));
            }
            denied(TopicAuthorizationException.class, () -> admin.deleteTopics(List.of("orders")).all().get());
            denied(AuthorizationException.class, () -> admin.createPartitions(Map.of("orders", NewPartitions.increaseTo(3))).all().get());
            denied(TopicAuthorizationException.class, () -> admin.deleteRecords(Map.of(new TopicPartition("orders", 0),
                org.apache.kafka.clients.admin.RecordsToDelete.beforeOffset(1))).all().get());
        }
        try (Consumer<String, String> consumer = consumer("app", "readers")) {
            consumer.subscribe(List.of("orders"));
            assertTrue(poll(consumer) >= 2);
            consumer.commitSync();
        }
        send("dcdr", "connect-configs", "x", true);
    }

    @Test
    @Order(5)
    void on_a_standby_the_mirror_writes_and_users_do_not() throws Exception {
        become(Role.STANDBY);
        try (Admin mirror = admin("mirror")) {
            mirror.createTopics(List.of(new NewTopic("mirrored", 1, (short) 1))).all().get();
            mirror.alterConsumerGroupOffsets("billing", Map.of(new TopicPartition("orders", 0), new OffsetAndMetadata(1))).all().get();
        }
        try (KafkaProducer<String, String> task = producer("mirror", "connect-a-source-0")) {
            task.initTransactions();
            task.beginTransaction();
            task.send(new ProducerRecord<>("mirrored", "x"));
            task.send(new ProducerRecord<>("connect-configs", "offset"));
            task.commitTransaction();
        }
        denied(TopicAuthorizationException.class, () -> send("app", "orders", "x"));
        denied(TopicAuthorizationException.class, () -> send("admin", "orders", "x"));
    }

    @Test
    @Order(6)
    void a_dead_agent_closes_broker_and_controller_after_the_validity() throws Exception {
        become(Role.STANDBY);
        agent.close();
        Waiting.until("both processes of the node told the expiry", 15_000, () -> expired().equals(Set.of("broker", "controller")));
        denied(TopicAuthorizationException.class, () -> send("mirror", "mirrored", "x"));
        try (Admin mirror = admin("mirror")) {
            denied(TopicAuthorizationException.class, () -> mirror.createTopics(List.of(new NewTopic("late", 1, (short) 1))).all().get());
        }
    }

    @Test
    @Order(7)
    void a_broker_with_a_setting_missing_does_not_start() throws Exception {
        Properties properties = properties(freePorts());
        properties.remove("dcdr.authorizer.scope");
        ConfigException error = assertThrows(ConfigException.class,
            () -> KafkaConfig.fromProps(properties).createNewAuthorizer(new org.apache.kafka.common.metrics.Metrics(), "broker"));
        assertTrue(error.getMessage().contains("dcdr.authorizer.scope"), error.getMessage());
        assertFalse(error.getMessage().isBlank());
    }

    private static Set<String> expired() {
        try {
            return Files.readAllLines(folder.resolve("trace.jsonl")).stream().filter(line -> line.contains("\"expired\""))
                .map(line -> line.contains("\"controller\"") ? "controller" : "broker").collect(Collectors.toSet());
        } catch (java.io.IOException error) {
            throw new AssertionError(error);
        }
    }

    /** Change the word and wait until both instances of the node believe it. */
    private static void become(Role role) throws Exception {
        long epoch = epochs++;
        agent.say(role, epoch);
        Waiting.until(role + " is believed by broker and controller", () -> {
            try {
                return Files.readAllLines(folder.resolve("trace.jsonl")).stream()
                    .filter(line -> line.contains("\"epoch\":" + epoch + ",\"reason\":\"marker\"")).count() == 2;
            } catch (java.io.IOException error) {
                throw new AssertionError(error);
            }
        });
    }

    private static long epochs = 2;

    private static void denied(Class<? extends Throwable> expected, Executable attempt) {
        Throwable thrown = assertThrows(Throwable.class, attempt);
        Throwable cause = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
        assertTrue(expected.isInstance(cause), "expected " + expected.getSimpleName() + ", was " + cause);
    }

    private static void send(String user, String topic, String value) throws Exception {
        send(user, topic, value, false);
    }

    private static void send(String user, String topic, String value, boolean mustBeDenied) throws Exception {
        try (KafkaProducer<String, String> producer = producer(user, null)) {
            if (mustBeDenied) {
                denied(TopicAuthorizationException.class, () -> producer.send(new ProducerRecord<>(topic, value)).get());
            } else {
                producer.send(new ProducerRecord<>(topic, value)).get();
            }
        }
    }

    private static int poll(Consumer<String, String> consumer) {
        long deadline = System.nanoTime() + LIMIT.toNanos();
        while (System.nanoTime() - deadline < 0) {
            int count = consumer.poll(Duration.ofMillis(200)).count();
            if (count > 0) {
                return count;
            }
        }
        throw new AssertionError("nothing to read in " + LIMIT);
    }

    private static long end(IsolationLevel level) throws Exception {
        TopicPartition partition = new TopicPartition("orders", 0);
        try (Admin admin = admin("admin")) {
            return admin.listOffsets(Map.of(partition, OffsetSpec.latest()), new ListOffsetsOptions(level)).partitionResult(partition).get().offset();
        }
    }

    private static AclBinding allow(ResourceType type, String name) {
        return new AclBinding(new ResourcePattern(type, name, PatternType.LITERAL),
            new AccessControlEntry("User:app", "*", AclOperation.ALL, AclPermissionType.ALLOW));
    }

    private static Map<String, Object> client(String user) {
        Map<String, Object> client = new HashMap<>();
        client.put("bootstrap.servers", bootstrap);
        client.put("security.protocol", "SASL_PLAINTEXT");
        client.put("sasl.mechanism", "PLAIN");
        client.put("sasl.jaas.config", login(user, List.of()));
        client.put("default.api.timeout.ms", "20000");
        client.put("request.timeout.ms", "10000");
        return client;
    }

    private static Admin admin(String user) {
        return Admin.create(client(user));
    }

    private static KafkaProducer<String, String> producer(String user, String transactionalId) {
        Map<String, Object> client = client(user);
        client.remove("default.api.timeout.ms");
        client.put("max.block.ms", "20000");
        if (transactionalId != null) {
            client.put("transactional.id", transactionalId);
        }
        return new KafkaProducer<>(client, new StringSerializer(), new StringSerializer());
    }

    private static Consumer<String, String> consumer(String user, String group) {
        Map<String, Object> client = client(user);
        client.put("group.id", group);
        client.put("auto.offset.reset", "earliest");
        client.put("enable.auto.commit", "false");
        return new KafkaConsumer<>(client, new StringDeserializer(), new StringDeserializer());
    }

    private static String login(String user, Collection<String> accepted) {
        return "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"" + user + "\" password=\"" + user + "-secret\""
            + accepted.stream().map(each -> " user_" + each + "=\"" + each + "-secret\"").collect(Collectors.joining()) + ";";
    }

    private static int[] freePorts() throws Exception {
        try (ServerSocket one = new ServerSocket(0); ServerSocket two = new ServerSocket(0)) {
            return new int[] {one.getLocalPort(), two.getLocalPort()};
        }
    }

    private static Properties properties(int[] ports) {
        Properties properties = new Properties();
        Node.settings(folder, agent.address()).forEach((key, value) -> properties.put(key, value.toString()));
        properties.put("dcdr.authorizer.trace.file", folder.resolve("trace.jsonl").toString());
        properties.put("authorizer.class.name", MarkerAuthorizer.class.getName());
        properties.put("node.id", "1");
        properties.put("process.roles", "broker,controller");
        properties.put("listeners", "CLIENT://127.0.0.1:" + ports[0] + ",CONTROLLER://127.0.0.1:" + ports[1]);
        properties.put("advertised.listeners", "CLIENT://127.0.0.1:" + ports[0]);
        properties.put("controller.quorum.voters", "1@127.0.0.1:" + ports[1]);
        properties.put("controller.listener.names", "CONTROLLER");
        properties.put("inter.broker.listener.name", "CLIENT");
        properties.put("listener.security.protocol.map", "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT");
        properties.put("sasl.enabled.mechanisms", "PLAIN");
        properties.put("sasl.mechanism.inter.broker.protocol", "PLAIN");
        properties.put("sasl.mechanism.controller.protocol", "PLAIN");
        properties.put("listener.name.client.plain.sasl.jaas.config", login("broker", USERS));
        properties.put("listener.name.controller.plain.sasl.jaas.config", login("broker", USERS));
        properties.put("log.dirs", folder.resolve("data").toString());
        properties.put("offsets.topic.replication.factor", "1");
        properties.put("offsets.topic.num.partitions", "1");
        properties.put("transaction.state.log.replication.factor", "1");
        properties.put("transaction.state.log.min.isr", "1");
        properties.put("transaction.state.log.num.partitions", "1");
        properties.put("group.initial.rebalance.delay.ms", "0");
        properties.put("log.cleaner.dedupe.buffer.size", "2097152");
        return properties;
    }
}
