package dcdr.authorizer;

import java.io.IOException;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

/**
 * Keeps one question pending at one agent: the agent answers when its marker changes, or after its refresh period.
 *
 * <p>After a refusal it asks for the whole marker again (no version, which any agent answers at once), first after 50 ms, then
 * less often, down to twice a second.
 */
final class Poller implements AutoCloseable {

    private static final long FIRST_BACKOFF_MS = 50;
    private static final long LAST_BACKOFF_MS = 500;
    /** An agent that answers at once, again and again, is asked at most this often. */
    private static final long SHORTEST_ROUND_MS = 20;
    private static final long CLOSE_LIMIT_MS = 2_000;

    private final String agent;
    private final Channel channel;
    private final Gate gate;
    private final EpochFile epochFile;
    private final Clock clock;
    private final Duration limit;
    private final String who;
    private final Thread thread;
    private String version = "";

    /**
     * @param who the constant part of the question: cluster, node and process
     */
    Poller(String agent, Channel channel, Gate gate, EpochFile epochFile, Clock clock, Duration limit, String who) {
        this.agent = agent;
        this.channel = channel;
        this.gate = gate;
        this.epochFile = epochFile;
        this.clock = clock;
        this.limit = limit;
        this.who = who;
        this.thread = new Thread(this::run, "dcdr-gate-agent");
        this.thread.setDaemon(true);
    }

    static String who(String cluster, int node, String process) {
        return "/v1/marker?cluster=" + encode(cluster) + "&node=" + node + "&process=" + process;
    }

    void start() {
        thread.start();
    }

    @Override
    public void close() {
        thread.interrupt();
        try {
            thread.join(CLOSE_LIMIT_MS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        channel.close();
    }

    private void run() {
        long backoffMs = FIRST_BACKOFF_MS;
        try {
            while (!Thread.currentThread().isInterrupted()) {
                long started = System.nanoTime();
                boolean refused = round() == Gate.Verdict.REFUSED;
                long spentMs = (System.nanoTime() - started) / 1_000_000L;
                if (refused) {
                    Thread.sleep(backoffMs);
                    backoffMs = Math.min(LAST_BACKOFF_MS, backoffMs * 2);
                } else {
                    backoffMs = FIRST_BACKOFF_MS;
                    Thread.sleep(Math.max(0, SHORTEST_ROUND_MS - spentMs));
                }
            }
        } catch (InterruptedException stopping) {
            // Asked to end.
        }
    }

    /** Ask once and hand the answer to the gate. */
    private Gate.Verdict round() throws InterruptedException {
        long sentNs = clock.nanoTime();
        long sentWallMs = clock.wallMs();
        Gate.Verdict verdict;
        try {
            Marker marker = Marker.parse(channel.ask(question(), limit));
            verdict = gate.offer(agent, marker, sentNs, sentWallMs);
            if (gate.unstoredEpoch() >= 0) {
                storeEpoch();
                if (verdict == Gate.Verdict.STORE_FIRST) {
                    verdict = gate.offer(agent, marker, sentNs, sentWallMs);
                }
            }
            version = verdict == Gate.Verdict.BELIEVED ? marker.version() : "";
        } catch (Refusal refusal) {
            version = "";
            verdict = gate.refuse(agent, refusal.reason(), refusal.getMessage());
        } catch (RuntimeException defect) {
            // Whatever it is, the other agents and the expiry must go on working; it is loud in the audit trail.
            version = "";
            verdict = gate.refuse(agent, Reason.DEFECT, defect.toString());
        }
        gate.warn(agent, Reason.TLS_FILES, channel.warning());
        // A later epoch of another agent that was seen between the two offers: this one's turn comes again.
        return verdict == Gate.Verdict.STORE_FIRST ? Gate.Verdict.ASK_AGAIN : verdict;
    }

    private void storeEpoch() throws Refusal, InterruptedException {
        long epoch = gate.unstoredEpoch();
        if (epoch >= 0) {
            try {
                gate.stored(epochFile.raise(epoch));
            } catch (IOException error) {
                throw new Refusal(Reason.EPOCH_FILE, error.getMessage());
            }
        }
    }

    private String question() {
        return who + "&epoch=" + Math.max(0, gate.seenEpoch()) + "&version=" + encode(version);
    }

    private static String encode(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }
}
