package dcdr.authorizer;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import org.apache.kafka.common.ClusterResource;
import org.apache.kafka.common.Endpoint;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.internals.Plugin;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.AuthorizationResult;
import org.apache.kafka.server.authorizer.AuthorizerServerInfo;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The authorizer of one broker, configured and started as the broker does it; ACLs allow `app` everything on topics. */
final class Node implements AutoCloseable {

    final MarkerAuthorizer authorizer;
    private final Path trace;

    Node(Path folder, Map<String, String> more, String... agents) throws IOException {
        this(folder, "broker", Clock.SYSTEM, more, agents);
    }

    Node(Path folder, String process, Clock clock, Map<String, String> more, String... agents) throws IOException {
        trace = folder.resolve("trace-" + process + ".jsonl");
        Map<String, Object> settings = settings(folder, agents);
        settings.put("dcdr.authorizer.trace.file", trace.toString());
        settings.putAll(more);
        authorizer = new MarkerAuthorizer(clock);
        authorizer.configure(settings);
        ready(authorizer);
        authorizer.start(info(process));
    }

    static Map<String, Object> settings(Path folder, String... agents) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("node.id", "3");
        settings.put("controller.listener.names", "CONTROLLER");
        settings.put("super.users", "User:admin;User:mirror;User:broker;User:dcdr");
        settings.put("dcdr.authorizer.scope", "lab");
        settings.put("dcdr.authorizer.dc", "dc-a");
        settings.put("dcdr.authorizer.agents", String.join(",", agents));
        settings.put("dcdr.authorizer.mirror.principals", "User:mirror");
        settings.put("dcdr.authorizer.internal.topics", "connect-configs,connect-offsets,connect-status,mm2-offset-syncs.a.internal");
        settings.put("dcdr.authorizer.internal.transactional.ids", "connect-cluster-connect-a");
        settings.put("dcdr.authorizer.fencing.principals", "User:dcdr");
        settings.put("dcdr.authorizer.exempt", "User:dcdr@dcdr-ledger.internal");
        settings.put("dcdr.authorizer.epoch.file", folder.resolve("epoch").toString());
        settings.put("dcdr.authorizer.request.timeout.ms", "1000");
        return settings;
    }

    /** Metrics and ACLs, as the broker gives them. */
    static void ready(StandardAuthorizer authorizer) {
        Plugin.wrapInstance(authorizer, new Metrics(), "authorizer.class.name", "role", "broker");
        authorizer.addAcl(Uuid.randomUuid(), StandardAcl.fromAclBinding(new AclBinding(
            new ResourcePattern(ResourceType.TOPIC, "*", PatternType.LITERAL),
            new AccessControlEntry("User:app", "*", AclOperation.ALL, AclPermissionType.ALLOW))));
        authorizer.completeInitialLoad();
    }

    boolean users() {
        return allows("app", AclOperation.WRITE, ResourceType.TOPIC, "orders");
    }

    boolean mirror() {
        return allows("mirror", AclOperation.WRITE, ResourceType.TOPIC, "orders");
    }

    boolean allows(String user, AclOperation operation, ResourceType type, String name) {
        return allows(user, ApiKeys.PRODUCE, operation, type, name);
    }

    boolean allows(String user, ApiKeys api, AclOperation operation, ResourceType type, String name) {
        return authorizer.authorize(Request.of(user, api), List.of(Request.action(operation, type, name))).get(0)
            == AuthorizationResult.ALLOWED;
    }

    List<JsonNode> trace() {
        try {
            List<JsonNode> lines = new ArrayList<>();
            for (String line : Files.readAllLines(trace)) {
                lines.add(new JsonMapper().readTree(line));
            }
            return lines;
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    JsonNode last() {
        List<JsonNode> lines = trace();
        return lines.isEmpty() ? new JsonMapper().createObjectNode().put("role", "").put("reason", "") : lines.get(lines.size() - 1);
    }

    List<String> reasons() {
        return trace().stream().map(line -> line.get("reason").textValue()).toList();
    }

    @Override
    public void close() throws IOException {
        authorizer.close();
    }

    static AuthorizerServerInfo info(String process) {
        Endpoint endpoint = new Endpoint(process.equals("broker") ? "CLIENT" : "CONTROLLER", SecurityProtocol.SASL_PLAINTEXT, "127.0.0.1", 1);
        return new AuthorizerServerInfo() {
            @Override
            public ClusterResource clusterResource() {
                return new ClusterResource("c1");
            }

            @Override
            public int brokerId() {
                return 3;
            }

            @Override
            public Collection<Endpoint> endpoints() {
                return List.of(endpoint);
            }

            @Override
            public Endpoint interBrokerEndpoint() {
                return endpoint;
            }

            @Override
            public Collection<String> earlyStartListeners() {
                return List.of();
            }
        };
    }
}
