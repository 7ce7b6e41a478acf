package dcdr.authorizer;

import org.apache.kafka.common.Endpoint;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.metrics.Gauge;
import org.apache.kafka.common.metrics.PluginMetrics;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.authorizer.AuthorizationResult;
import org.apache.kafka.server.authorizer.AuthorizerServerInfo;

import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;

/**
 * The broker's own authorizer behind two gates, one for users and one for the mirror, that are open only while a fresh marker
 * of the data center's agent says so.
 *
 * <p>Set as `authorizer.class.name` on every broker and every controller. Which actions pass which gate: {@link Rules}. When a
 * gate is open: {@link Gate}. What passes its gate, or needs none, is decided by {@link StandardAuthorizer} as ever; what does not is
 * denied before it is asked, so before super users.
 *
 * <p>{@link #authorize} reads one volatile field and, for gated actions, the two clocks: no I/O, no lock, no allocation beyond the
 * wrapped authorizer's unless something is denied.
 */
public class MarkerAuthorizer extends StandardAuthorizer {

    private static final long LONGEST_NAP_NS = TimeUnit.MILLISECONDS.toNanos(100);
    private static final long CLOSE_LIMIT_MS = 2_000;

    /** What one call has found out about the gates; asked at most once a call, so that one request gets one answer. */
    private static final int ALL_PASS = -1;
    private static final int UNKNOWN = 0;
    private static final int USERS_OPEN = 1;
    private static final int MIRROR_OPEN = 2;
    private static final int NONE_OPEN = 3;

    private final Clock clock;
    private final LongAdder denied = new LongAdder();
    private Settings settings;
    private Rules rules;
    private Set<String> controllerListeners = Set.of();
    /** Null before start: nothing is believed then, so everything gated is denied. */
    private volatile Gate gate;
    private AuditTrail trail;
    private Thread ticker;
    private final List<Poller> pollers = new ArrayList<>();

    /** For the broker. */
    public MarkerAuthorizer() {
        this(Clock.SYSTEM);
    }

    MarkerAuthorizer(Clock clock) {
        this.clock = clock;
    }

    /**
     * Read the settings.
     *
     * @throws ConfigException if one is missing or wrong, or a file cannot be used: the broker does not start
     */
    @Override
    public void configure(Map<String, ?> configs) {
        super.configure(configs);
        settings = Settings.parse(configs);
        rules = settings.rules();
        Object listeners = configs.get("controller.listener.names");
        controllerListeners = new HashSet<>(Arrays.asList(listeners == null ? new String[0] : listeners.toString().strip().split("\\s*,\\s*")));
    }

    /** Start asking the agents. Returns at once: what may start before a marker is there is as closed as without one. */
    @Override
    public Map<Endpoint, ? extends CompletionStage<Void>> start(AuthorizerServerInfo serverInfo) {
        String cluster = serverInfo.clusterResource().clusterId();
        String process = process(serverInfo);
        EpochFile epochFile = new EpochFile(settings.epochFile(), settings.scope(), settings.dc(), cluster);
        try {
            trail = new AuditTrail(settings.traceFile(), settings.scope(), settings.dc(), serverInfo.brokerId(), process);
        } catch (IOException error) {
            throw new ConfigException("cannot write dcdr.authorizer.trace.file " + settings.traceFile() + ": " + error);
        }
        gate = newGate(cluster, epochFile);
        String who = Poller.who(cluster, serverInfo.brokerId(), process);
        for (AgentAddress agent : settings.agents()) {
            pollers.add(new Poller(agent.text(), channel(agent), gate, epochFile, clock, Duration.ofMillis(settings.requestTimeoutMs()), who));
        }
        ticker = new Thread(this::tick, "dcdr-gate-expiry-" + process);
        ticker.setDaemon(true);
        ticker.start();
        pollers.forEach(Poller::start);
        return super.start(serverInfo);
    }

    @Override
    public List<AuthorizationResult> authorize(AuthorizableRequestContext requestContext, List<Action> actions) {
        int open = passing(requestContext, actions);
        return open == ALL_PASS ? super.authorize(requestContext, actions) : withDenials(requestContext, actions, open);
    }

    /** {@link #ALL_PASS} if every action passes its gate or needs none, else which gate is open. All that this class adds to a call. */
    int passing(AuthorizableRequestContext requestContext, List<Action> actions) {
        int open = UNKNOWN;
        // By index: the broker hands over singletons, array-backed buffers and lists of a dozen operations at most (AuthHelper,
        // kafka 4.3.1), and an iterator would be an allocation.
        for (int i = 0, size = actions.size(); i < size; i++) {
            Rules.Need need = rules.need(requestContext, actions.get(i));
            if (need != Rules.Need.NOTHING) {
                if (open == UNKNOWN) {
                    open = open();
                }
                if (!passes(need, open)) {
                    return open;
                }
            }
        }
        return ALL_PASS;
    }

    @Override
    public void withPluginMetrics(PluginMetrics metrics) {
        super.withPluginMetrics(metrics);
        gauge(metrics, "gate-users-open", "1 while users may write", () -> open() == USERS_OPEN ? 1L : 0L);
        gauge(metrics, "gate-mirror-open", "1 while the mirror may write", () -> open() == MIRROR_OPEN ? 1L : 0L);
        gauge(metrics, "gate-epoch", "The highest epoch seen, -1 if none", () -> gate == null ? -1L : gate.seenEpoch());
        gauge(metrics, "gate-valid-ms", "Milliseconds until the open gate closes by itself, 0 if none is open", this::validMs);
        gauge(metrics, "gate-denied-total", "Actions denied by a closed gate", denied::sum);
    }

    /** End all threads; both gates are closed from here on. */
    @Override
    public void close() throws IOException {
        if (gate != null) {
            gate.stop();
        }
        pollers.forEach(Poller::close);
        if (ticker != null) {
            ticker.interrupt();
            try {
                ticker.join(CLOSE_LIMIT_MS);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        if (trail != null) {
            trail.close();
        }
        super.close();
    }

    private int open() {
        Gate now = gate;
        if (now == null) {
            return NONE_OPEN;
        }
        Decision decision = now.decision();
        if (decision.usersOpen(clock)) {
            return USERS_OPEN;
        }
        return decision.mirrorOpen(clock) ? MIRROR_OPEN : NONE_OPEN;
    }

    private static boolean passes(Rules.Need need, int open) {
        return need == Rules.Need.NOTHING || open == (need == Rules.Need.USERS ? USERS_OPEN : MIRROR_OPEN);
    }

    /** Deny what does not pass its gate; the rest gets the wrapped authorizer's answer, which is asked about nothing else. */
    private List<AuthorizationResult> withDenials(AuthorizableRequestContext requestContext, List<Action> actions, int open) {
        List<Action> passing = new ArrayList<>(actions.size());
        boolean[] passes = new boolean[actions.size()];
        for (int i = 0; i < passes.length; i++) {
            Action action = actions.get(i);
            passes[i] = passes(rules.need(requestContext, action), open);
            if (passes[i]) {
                passing.add(action);
            }
        }
        denied.add(passes.length - passing.size());
        List<AuthorizationResult> answers = passing.isEmpty() ? List.of() : super.authorize(requestContext, passing);
        List<AuthorizationResult> results = new ArrayList<>(passes.length);
        int next = 0;
        for (boolean passed : passes) {
            results.add(passed ? answers.get(next++) : AuthorizationResult.DENIED);
        }
        return results;
    }

    private Gate newGate(String cluster, EpochFile epochFile) {
        long epoch = -1;
        String damage = null;
        try {
            epoch = epochFile.read();
        } catch (IOException error) {
            damage = error.getMessage();
        }
        Gate fresh = new Gate(settings.scope(), settings.dc(), cluster, epoch, settings.skewMs(), settings.maxValidMs(), clock, trail);
        if (damage != null) {
            // The broker starts, closed: a standby with a damaged file still serves its readers, and mending needs no restart.
            fresh.warn(settings.epochFile().toString(), Reason.EPOCH_FILE, damage);
        }
        return fresh;
    }

    private Channel channel(AgentAddress agent) {
        if (agent.socket() != null) {
            return new SocketFileChannel(agent.socket());
        }
        try {
            return new HttpChannel(agent.base(), agent.needsTls() ? settings.tls() : null);
        } catch (IOException error) {
            throw new ConfigException("the dcdr authorizer's TLS files (dcdr.authorizer.tls.*): " + error.getMessage());
        }
    }

    /** A combined node starts one authorizer for each of its two parts; they differ in the listeners they are given. */
    private String process(AuthorizerServerInfo serverInfo) {
        for (Endpoint endpoint : serverInfo.endpoints()) {
            if (!controllerListeners.contains(endpoint.listener())) {
                return "broker";
            }
        }
        return "controller";
    }

    private void tick() {
        try {
            while (!Thread.currentThread().isInterrupted()) {
                gate.tick();
                TimeUnit.NANOSECONDS.sleep(gate.untilNextExpiryNs(LONGEST_NAP_NS) + 1);
            }
        } catch (InterruptedException stopping) {
            // Asked to end.
        }
    }

    private long validMs() {
        Gate now = gate;
        if (now == null || open() == NONE_OPEN) {
            return 0;
        }
        Decision decision = now.decision();
        long byWallMs = decision.untilWallMs() - clock.wallMs();
        return Math.max(0, Math.min(byWallMs, (decision.untilNs() - clock.nanoTime()) / 1_000_000L));
    }

    private static void gauge(PluginMetrics metrics, String name, String what, java.util.function.LongSupplier value) {
        metrics.addMetric(metrics.metricName(name, what, new LinkedHashMap<>()), (Gauge<Long>) (config, now) -> value.getAsLong());
    }
}
