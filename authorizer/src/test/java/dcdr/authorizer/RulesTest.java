package dcdr.authorizer;

import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizationResult;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;

import static org.apache.kafka.common.acl.AclOperation.DESCRIBE;
import static org.apache.kafka.common.acl.AclOperation.READ;
import static org.apache.kafka.common.acl.AclOperation.WRITE;
import static org.apache.kafka.common.resource.ResourceType.TOPIC;
import static org.apache.kafka.common.resource.ResourceType.TRANSACTIONAL_ID;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

/** Every rule, through `authorize()` and a marker that came over a socket; all users here are super users unless they are `app`. */
class RulesTest {

    @TempDir
    static Path folder;
    private static StubAgent agent;
    private static Node node;
    private static long epoch = 1;

    @BeforeAll
    static void start() throws Exception {
        agent = StubAgent.http(0);
        agent.say(Role.NONE, epoch);
        node = new Node(folder, Map.of(), agent.address());
    }

    @AfterAll
    static void stop() throws Exception {
        node.close();
        agent.close();
    }

    @ParameterizedTest
    @CsvSource({
        // user, request, operation, resource, name, gate: users, mirror, none (never denied by a gate)
        "admin,  PRODUCE,                   WRITE,         TOPIC,            orders,               users",
        "admin,  CREATE_TOPICS,             CREATE,        TOPIC,            orders,               users",
        "admin,  DELETE_TOPICS,             DELETE,        TOPIC,            orders,               users",
        "admin,  DELETE_RECORDS,            DELETE,        TOPIC,            orders,               users",
        "admin,  CREATE_PARTITIONS,         ALTER,         TOPIC,            orders,               users",
        "admin,  INCREMENTAL_ALTER_CONFIGS, ALTER_CONFIGS, TOPIC,            orders,               users",
        "admin,  CREATE_TOPICS,             CREATE,        CLUSTER,          kafka-cluster,        users",
        "admin,  METADATA,                  CREATE,        CLUSTER,          kafka-cluster,        users",
        "admin,  DELETE_TOPICS,             DELETE,        CLUSTER,          kafka-cluster,        users",
        "admin,  INIT_PRODUCER_ID,          WRITE,         TRANSACTIONAL_ID, pay,                  users",
        "admin,  END_TXN,                   WRITE,         TRANSACTIONAL_ID, pay,                  users",
        "admin,  INIT_PRODUCER_ID,          IDEMPOTENT_WRITE, CLUSTER,       kafka-cluster,        none",
        "admin,  PRODUCE,                   WRITE,         TOPIC,            dcdr-ledger.internal, users",
        "admin,  PRODUCE,                   WRITE,         TOPIC,            connect-configs,      users",
        "admin,  PRODUCE,                   WRITE,         TOPIC,            __consumer_offsets,   users",
        "admin,  FETCH,                     READ,          TOPIC,            orders,               none",
        "admin,  METADATA,                  DESCRIBE,      TOPIC,            orders,               none",
        "admin,  OFFSET_COMMIT,             READ,          GROUP,            billing,              none",
        "admin,  JOIN_GROUP,                READ,          GROUP,            billing,              none",
        "admin,  DELETE_GROUPS,             DELETE,        GROUP,            billing,              none",
        "admin,  CREATE_ACLS,               ALTER,         CLUSTER,          kafka-cluster,        none",
        "admin,  INCREMENTAL_ALTER_CONFIGS, ALTER_CONFIGS, CLUSTER,          kafka-cluster,        none",
        // The brokers' own principal replicates, and makes Kafka's own topics when they are first needed, but is a user for the rest.
        "broker, FETCH,                     CLUSTER_ACTION, CLUSTER,         kafka-cluster,        none",
        "broker, CREATE_TOPICS,             CREATE,        TOPIC,            __consumer_offsets,   none",
        "broker, CREATE_TOPICS,             CREATE,        TOPIC,            __transaction_state,  none",
        "broker, CREATE_TOPICS,             CREATE,        TOPIC,            __share_group_state,  none",
        "broker, CREATE_TOPICS,             CREATE,        TOPIC,            orders,               users",
        "broker, DELETE_TOPICS,             DELETE,        TOPIC,            __consumer_offsets,   users",
        "broker, PRODUCE,                   WRITE,         TOPIC,            orders,               users",
        // The ledger's writer, who may also fence.
        "dcdr,   PRODUCE,                   WRITE,         TOPIC,            dcdr-ledger.internal, none",
        "dcdr,   CREATE_TOPICS,             CREATE,        TOPIC,            dcdr-ledger.internal, none",
        "dcdr,   INCREMENTAL_ALTER_CONFIGS, ALTER_CONFIGS, TOPIC,            dcdr-ledger.internal, none",
        "dcdr,   PRODUCE,                   WRITE,         TOPIC,            orders,               users",
        "dcdr,   PRODUCE,                   WRITE,         TOPIC,            connect-configs,      users",
        "dcdr,   INIT_PRODUCER_ID,          WRITE,         TRANSACTIONAL_ID, pay,                  none",
        "dcdr,   END_TXN,                   WRITE,         TRANSACTIONAL_ID, pay,                  users",
        "dcdr,   ADD_PARTITIONS_TO_TXN,     WRITE,         TRANSACTIONAL_ID, pay,                  users",
        "dcdr,   PRODUCE,                   WRITE,         TRANSACTIONAL_ID, pay,                  users",
        "dcdr,   OFFSET_COMMIT,             READ,          GROUP,            billing,              none",
        // The mirror writes on a standby only.
        "mirror, PRODUCE,                   WRITE,         TOPIC,            orders,               mirror",
        "mirror, CREATE_TOPICS,             CREATE,        TOPIC,            orders,               mirror",
        "mirror, CREATE_TOPICS,             CREATE,        CLUSTER,          kafka-cluster,        mirror",
        "mirror, DELETE_TOPICS,             DELETE,        CLUSTER,          kafka-cluster,        mirror",
        "mirror, CREATE_PARTITIONS,         ALTER,         TOPIC,            orders,               mirror",
        "mirror, INCREMENTAL_ALTER_CONFIGS, ALTER_CONFIGS, TOPIC,            orders,               mirror",
        "mirror, DELETE_TOPICS,             DELETE,        TOPIC,            orders,               mirror",
        "mirror, INIT_PRODUCER_ID,          WRITE,         TRANSACTIONAL_ID, connect-a-source-0,   mirror",
        "mirror, END_TXN,                   WRITE,         TRANSACTIONAL_ID, connect-a-source-0,   mirror",
        "mirror, OFFSET_COMMIT,             READ,          GROUP,            billing,              mirror",
        "mirror, TXN_OFFSET_COMMIT,         READ,          GROUP,            billing,              mirror",
        "mirror, ALTER_SHARE_GROUP_OFFSETS, READ,          GROUP,            billing,              mirror",
        "mirror, OFFSET_DELETE,             DELETE,        GROUP,            billing,              mirror",
        "mirror, DELETE_GROUPS,             DELETE,        GROUP,            billing,              mirror",
        // What a Connect worker needs to start and to keep its group.
        "mirror, JOIN_GROUP,                READ,          GROUP,            connect-a,            none",
        "mirror, SYNC_GROUP,                READ,          GROUP,            connect-a,            none",
        "mirror, HEARTBEAT,                 READ,          GROUP,            connect-a,            none",
        "mirror, LEAVE_GROUP,               READ,          GROUP,            connect-a,            none",
        "mirror, CONSUMER_GROUP_HEARTBEAT,  READ,          GROUP,            connect-a,            none",
        "mirror, OFFSET_FETCH,              DESCRIBE,      GROUP,            billing,              none",
        "mirror, PRODUCE,                   WRITE,         TOPIC,            connect-configs,      none",
        "mirror, PRODUCE,                   WRITE,         TOPIC,            connect-status,       none",
        "mirror, CREATE_TOPICS,             CREATE,        TOPIC,            connect-offsets,      none",
        "mirror, PRODUCE,                   WRITE,         TOPIC,            mm2-offset-syncs.a.internal, none",
        "mirror, INIT_PRODUCER_ID,          WRITE,         TRANSACTIONAL_ID, connect-cluster-connect-a, none",
        "mirror, END_TXN,                   WRITE,         TRANSACTIONAL_ID, connect-cluster-connect-a, none",
        "mirror, INIT_PRODUCER_ID,          IDEMPOTENT_WRITE, CLUSTER,       kafka-cluster,        none",
        "mirror, FETCH,                     READ,          TOPIC,            orders,               none",
        "mirror, PRODUCE,                   WRITE,         TOPIC,            dcdr-ledger.internal, mirror",
        // Ordinary ACLs still hold behind an open gate, and an open gate adds nothing to them.
        "app,    PRODUCE,                   WRITE,         TOPIC,            orders,               users",
    })
    void an_action_passes_its_gate_or_is_denied(String user, ApiKeys api, AclOperation operation, ResourceType type, String name, String gate)
        throws Exception {
        for (Role role : Role.values()) {
            become(role);
            boolean expected = gate.equals("none") || gate.equals("users") && role == Role.ACTIVE || gate.equals("mirror") && role == Role.STANDBY;
            assertEquals(expected, node.allows(user, api, operation, type, name), role + ": " + gate);
        }
    }

    @ParameterizedTest
    @EnumSource(Role.class)
    void the_acls_still_hold_behind_the_gates(Role role) throws Exception {
        become(role);
        assertFalse(node.allows("stranger", WRITE, TOPIC, "orders"));
        assertFalse(node.allows("stranger", READ, TOPIC, "orders"));
        assertFalse(node.allows("app", WRITE, TRANSACTIONAL_ID, "pay"));
        assertTrue(node.allows("app", READ, TOPIC, "orders"));
    }

    @Test
    void a_request_with_several_actions_keeps_the_acls_answer_for_what_is_not_denied() throws Exception {
        List<Action> actions = List.of(action(WRITE, "orders"), action(READ, "orders"), action(WRITE, "other"), action(DESCRIBE, "orders"));
        become(Role.STANDBY);
        AuthorizationResult yes = AuthorizationResult.ALLOWED;
        AuthorizationResult no = AuthorizationResult.DENIED;
        assertEquals(List.of(no, yes, no, yes), node.authorizer.authorize(Request.of("app"), actions));
        assertEquals(List.of(no, no, no, no), node.authorizer.authorize(Request.of("stranger"), actions));
        become(Role.ACTIVE);
        assertEquals(List.of(yes, yes, yes, yes), node.authorizer.authorize(Request.of("app"), actions));
        assertEquals(List.of(), node.authorizer.authorize(Request.of("app"), List.of()));
    }

    @Test
    void the_mirrors_internal_topics_are_free_beside_data_topics_that_are_not() throws Exception {
        become(Role.ACTIVE);
        assertEquals(List.of(AuthorizationResult.DENIED, AuthorizationResult.ALLOWED),
            node.authorizer.authorize(Request.of("mirror"), List.of(action(WRITE, "orders"), action(WRITE, "connect-offsets"))));
    }

    @Test
    void a_mirror_whose_principal_is_of_the_brokers_own_class_is_still_the_mirror() throws Exception {
        become(Role.ACTIVE);
        KafkaPrincipal custom = new KafkaPrincipal(KafkaPrincipal.USER_TYPE, "mirror") {
        };
        assertEquals(List.of(AuthorizationResult.DENIED),
            node.authorizer.authorize(new Request(custom, ApiKeys.PRODUCE), List.of(action(WRITE, "orders"))));
    }

    @Test
    void a_principal_of_another_type_is_nobody_special() throws Exception {
        become(Role.STANDBY);
        assertEquals(List.of(AuthorizationResult.DENIED),
            node.authorizer.authorize(new Request(new KafkaPrincipal("Group", "mirror"), ApiKeys.PRODUCE), List.of(action(WRITE, "orders"))));
    }

    @Test
    void every_operation_on_a_topic_is_either_gated_or_known_to_be_harmless() throws Exception {
        become(Role.NONE);
        List<AclOperation> harmless = List.of(READ, DESCRIBE, AclOperation.DESCRIBE_CONFIGS);
        for (AclOperation operation : org.apache.kafka.security.authorizer.AclEntry.supportedOperations(TOPIC)) {
            assertEquals(harmless.contains(operation), node.allows("admin", operation, TOPIC, "orders"), operation.toString());
        }
    }

    private static void become(Role role) throws InterruptedException {
        agent.say(role, epoch++);
        Waiting.until(role + " is believed", () -> node.users() == (role == Role.ACTIVE) && node.mirror() == (role == Role.STANDBY)
            && node.last().get("role").textValue().equals(role.name()));
    }

    private static Action action(AclOperation operation, String topic) {
        return Request.action(operation, TOPIC, topic);
    }
}
