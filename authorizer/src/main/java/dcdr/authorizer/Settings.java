package dcdr.authorizer;

import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.internals.Topic;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.utils.SecurityUtils;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/**
 * The plugin's settings, read from the broker's properties. The table in the README describes each.
 *
 * @param tls       null when no agent is spoken to over https
 * @param traceFile null when no trace is wanted
 */
record Settings(String scope, String dc, List<AgentAddress> agents, Rules rules, Path epochFile, long skewMs, long requestTimeoutMs,
                long maxValidMs, TlsFiles tls, Path traceFile) {

    private static final String PREFIX = "dcdr.authorizer.";
    private static final String SCOPE = PREFIX + "scope";
    private static final String DC = PREFIX + "dc";
    private static final String AGENTS = PREFIX + "agents";
    private static final String MIRRORS = PREFIX + "mirror.principals";
    private static final String INTERNAL_TOPICS = PREFIX + "internal.topics";
    private static final String INTERNAL_IDS = PREFIX + "internal.transactional.ids";
    private static final String FENCERS = PREFIX + "fencing.principals";
    private static final String EXEMPT = PREFIX + "exempt";
    private static final String EPOCH_FILE = PREFIX + "epoch.file";
    private static final String SKEW = PREFIX + "skew.ms";
    private static final String REQUEST_TIMEOUT = PREFIX + "request.timeout.ms";
    private static final String MAX_VALID = PREFIX + "max.valid.ms";
    private static final String TLS_CERTIFICATE = PREFIX + "tls.certificate";
    private static final String TLS_KEY = PREFIX + "tls.key";
    private static final String TLS_CA = PREFIX + "tls.ca";
    private static final String TRACE_FILE = PREFIX + "trace.file";

    private static final Set<String> KNOWN = Set.of(SCOPE, DC, AGENTS, MIRRORS, INTERNAL_TOPICS, INTERNAL_IDS, FENCERS, EXEMPT,
        EPOCH_FILE, SKEW, REQUEST_TIMEOUT, MAX_VALID, TLS_CERTIFICATE, TLS_KEY, TLS_CA, TRACE_FILE);

    private static final int MAX_NAME = 256;

    /**
     * Read and check.
     *
     * @throws ConfigException naming the setting and what to set; the broker does not start then
     */
    static Settings parse(Map<String, ?> broker) {
        for (String key : new TreeSet<>(broker.keySet())) {
            if (key.startsWith(PREFIX) && !KNOWN.contains(key)) {
                throw new ConfigException(key + " is not a setting of the dcdr authorizer. The settings are: "
                    + String.join(", ", new TreeSet<>(KNOWN)));
            }
        }
        List<AgentAddress> agents = agents(broker);
        Rules rules = new Rules(principals(broker, MIRRORS, required(broker, MIRRORS, "the principals of the mirror, as User:mirror")),
            topics(broker), Set.copyOf(list(optional(broker, INTERNAL_IDS), ",")),
            principals(broker, FENCERS, optional(broker, FENCERS)), exempt(broker));
        return new Settings(
            name(SCOPE, required(broker, SCOPE, "the scope this cluster belongs to")),
            name(DC, required(broker, DC, "the data center this cluster is in")),
            agents, rules, epochFile(broker),
            number(broker, SKEW, 2_000, 0, 600_000),
            number(broker, REQUEST_TIMEOUT, 4_000, 100, 120_000),
            number(broker, MAX_VALID, 60_000, 100, 600_000),
            agents.stream().anyMatch(AgentAddress::needsTls) ? tls(broker) : null, traceFile(broker));
    }

    /** Several agents are several opinions; the same one twice would be one opinion counted twice. */
    private static List<AgentAddress> agents(Map<String, ?> broker) {
        String text = required(broker, AGENTS, "where the agents of this data center listen, as https://agent:7443 or unix:/run/agent.sock");
        List<AgentAddress> agents = new ArrayList<>();
        for (String each : list(text, ",")) {
            AgentAddress agent = AgentAddress.parse(AGENTS, each);
            if (agents.contains(agent)) {
                throw new ConfigException(AGENTS, text, "names " + each + " twice");
            }
            agents.add(agent);
        }
        return List.copyOf(agents);
    }

    private static List<KafkaPrincipal> principals(Map<String, ?> broker, String setting, String text) {
        List<KafkaPrincipal> principals = new ArrayList<>();
        for (String each : list(text, ";")) {
            principals.add(principal(setting, each));
        }
        return principals;
    }

    private static KafkaPrincipal principal(String setting, String text) {
        // A name may hold commas (User:CN=mirror,O=example), so the list is separated as super.users is. A comma by habit
        // would make one principal of two, which then equals nobody.
        if (text.matches(".*,\\s*[A-Za-z]+:.*")) {
            throw new ConfigException(setting, text, "must be separated by semicolons, as in super.users");
        }
        try {
            KafkaPrincipal principal = SecurityUtils.parseKafkaPrincipal(text);
            if (principal.getName().isEmpty() || principal.getName().equals("*")) {
                throw new ConfigException(setting, text, "must name one principal, as in User:mirror");
            }
            return principal;
        } catch (IllegalArgumentException error) {
            throw new ConfigException(setting, text, "must be principals, as in User:mirror;User:CN=mirror,O=example");
        }
    }

    private static Set<String> topics(Map<String, ?> broker) {
        Set<String> topics = new HashSet<>();
        for (String each : list(optional(broker, INTERNAL_TOPICS), ",")) {
            topics.add(topic(INTERNAL_TOPICS, each));
        }
        return topics;
    }

    private static Map<KafkaPrincipal, Set<String>> exempt(Map<String, ?> broker) {
        Map<KafkaPrincipal, Set<String>> exempt = new HashMap<>();
        for (String each : list(optional(broker, EXEMPT), ";")) {
            int at = each.lastIndexOf('@');
            if (at < 0) {
                throw new ConfigException(EXEMPT, each, "must be principal@topic, as in User:dcdr@dcdr-ledger.internal");
            }
            exempt.computeIfAbsent(principal(EXEMPT, each.substring(0, at)), one -> new HashSet<>())
                .add(topic(EXEMPT, each.substring(at + 1)));
        }
        return exempt;
    }

    private static String topic(String setting, String name) {
        try {
            Topic.validate(name);
            return name;
        } catch (InvalidTopicException error) {
            throw new ConfigException(setting, name, "must name each topic in full (no patterns): " + error.getMessage()
                + (setting.equals(EXEMPT) ? "; pairs are separated by semicolons" : ""));
        }
    }

    private static Path epochFile(Map<String, ?> broker) {
        String text = required(broker, EPOCH_FILE, "a file of this node's own on a durable disk, beside the log directories");
        Path file = Path.of(text);
        if (!file.isAbsolute() || file.getFileName() == null) {
            throw new ConfigException(EPOCH_FILE, text, "must be an absolute path of a file");
        }
        Path folder = file.getParent();
        if (!Files.isDirectory(folder) || !Files.isWritable(folder)) {
            throw new ConfigException(EPOCH_FILE, text, "must lie in a folder that exists and that the broker may write to");
        }
        if (Files.exists(file) && (!Files.isRegularFile(file) || !Files.isReadable(file))) {
            throw new ConfigException(EPOCH_FILE, text, "must be a file that the broker may read");
        }
        return file;
    }

    private static TlsFiles tls(Map<String, ?> broker) {
        String why = "it is needed for an agent at an https address";
        TlsFiles files = new TlsFiles(Path.of(required(broker, TLS_CERTIFICATE, "the PEM file of this node's certificate; " + why)),
            Path.of(required(broker, TLS_KEY, "the PEM file of this node's key; " + why)),
            Path.of(required(broker, TLS_CA, "the PEM file of the authority of the agents' certificates; " + why)));
        try {
            files.load();
        } catch (IOException error) {
            throw new ConfigException("the dcdr authorizer's TLS files (" + PREFIX + "tls.*): " + error.getMessage());
        }
        return files;
    }

    private static Path traceFile(Map<String, ?> broker) {
        String text = optional(broker, TRACE_FILE);
        if (text.isEmpty()) {
            return null;
        }
        Path file = Path.of(text);
        boolean writable = Files.exists(file) ? Files.isRegularFile(file) && Files.isWritable(file)
            : file.isAbsolute() && Files.isWritable(file.getParent());
        if (!file.isAbsolute() || !writable) {
            throw new ConfigException(TRACE_FILE, text, "must be an absolute path of a file that the broker may write to");
        }
        return file;
    }

    private static String name(String setting, String text) {
        if (text.length() > MAX_NAME) {
            throw new ConfigException(setting, text.substring(0, 20) + "...", "must be at most " + MAX_NAME + " characters");
        }
        return text;
    }

    private static long number(Map<String, ?> broker, String setting, long otherwise, long least, long most) {
        String text = optional(broker, setting);
        if (text.isEmpty()) {
            return otherwise;
        }
        try {
            long number = Long.parseLong(text);
            if (number >= least && number <= most) {
                return number;
            }
        } catch (NumberFormatException error) {
            // Told below, with the bounds.
        }
        throw new ConfigException(setting, text, "must be a whole number of milliseconds from " + least + " to " + most);
    }

    private static String required(Map<String, ?> broker, String setting, String what) {
        String text = optional(broker, setting);
        if (text.isEmpty()) {
            throw new ConfigException("set " + setting + " in the broker's properties: " + what);
        }
        return text;
    }

    private static String optional(Map<String, ?> broker, String setting) {
        Object value = broker.get(setting);
        return value == null ? "" : value.toString().strip();
    }

    private static List<String> list(String text, String separator) {
        List<String> parts = new ArrayList<>();
        for (String part : text.split(separator)) {
            if (!part.isBlank()) {
                parts.add(part.strip());
            }
        }
        return parts;
    }
}
