package dcdr.authorizer;

import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.EnumSet;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;

/**
 * Writes each change of the gates as one line to the logger `dcdr.gate` and, if configured, as one JSON object to a file.
 *
 * <p>A thread of its own writes, so that a log on a stuck disk cannot keep a gate from closing. The queue is bounded: when
 * {@value #CAPACITY} lines wait, further ones are counted, and the next line that gets through tells how many were lost.
 */
final class AuditTrail implements Consumer<Change>, AutoCloseable {

    static final String LOGGER = "dcdr.gate";
    private static final int CAPACITY = 4096;
    private static final int MAX_DETAIL = 300;
    private static final long CLOSE_LIMIT_MS = 2_000;

    /** What happens when nothing is wrong; everything else is a warning, or an error that needs a person. */
    private static final Set<Reason> ORDINARY =
        EnumSet.of(Reason.STARTED, Reason.MARKER, Reason.STORING_EPOCH, Reason.AGENT_ANSWERS, Reason.STOPPED);

    private final Logger log = LoggerFactory.getLogger(LOGGER);
    private final JsonMapper json = new JsonMapper();
    private final BlockingQueue<Change> queue = new ArrayBlockingQueue<>(CAPACITY);
    private final AtomicLong lost = new AtomicLong();
    private final FileChannel file;
    private final String scope;
    private final String dc;
    private final int node;
    private final String process;
    private final Thread writer;
    private volatile boolean closing;
    private boolean fileFailed;

    /**
     * @param traceFile null if no trace is wanted; several processes may append to the same file
     * @param process   broker or controller
     * @throws IOException if the trace file cannot be opened
     */
    AuditTrail(Path traceFile, String scope, String dc, int node, String process) throws IOException {
        this.file = traceFile == null ? null
            : FileChannel.open(traceFile, StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.APPEND);
        this.scope = scope;
        this.dc = dc;
        this.node = node;
        this.process = process;
        this.writer = new Thread(this::write, "dcdr-gate-audit-" + process);
        this.writer.setDaemon(true);
        this.writer.start();
    }

    @Override
    public void accept(Change change) {
        if (!queue.offer(change)) {
            lost.incrementAndGet();
        }
    }

    /** Write what waits, within 2 s, and end the thread. */
    @Override
    public void close() {
        closing = true;
        try {
            writer.join(CLOSE_LIMIT_MS);
            writer.interrupt();
            writer.join(CLOSE_LIMIT_MS);
        } catch (InterruptedException interrupted) {
            writer.interrupt();
            Thread.currentThread().interrupt();
        }
    }

    private void write() {
        try {
            while (true) {
                Change change = queue.poll(50, TimeUnit.MILLISECONDS);
                if (change != null) {
                    write(change, lost.getAndSet(0));
                } else if (closing) {
                    break;
                }
            }
        } catch (InterruptedException interrupted) {
            // Closing took too long: what waits is lost, as it would be with the process.
        }
        try {
            if (file != null) {
                file.close();
            }
        } catch (IOException error) {
            log.warn("closing the trace file failed: {}", error.toString());
        }
    }

    private void write(Change change, long lostBefore) {
        String line = line(change, lostBefore);
        try {
            if (change.reason() == Reason.EPOCH_FILE || change.reason() == Reason.DEFECT) {
                log.error(line);
            } else if (ORDINARY.contains(change.reason())) {
                log.info(line);
            } else {
                log.warn(line);
            }
            trace(change, lostBefore);
        } catch (IOException | RuntimeException error) {
            if (!fileFailed) {
                fileFailed = true;
                log.warn("the trace of the gates is incomplete from here on: {}", error.toString());
            }
        }
    }

    private String line(Change change, long lostBefore) {
        StringBuilder line = new StringBuilder(256)
            .append("gate users=").append(change.users() ? "open" : "closed")
            .append(" mirror=").append(change.mirror() ? "open" : "closed")
            .append(" role=").append(change.roleWord())
            .append(" epoch=").append(change.epoch())
            .append(" reason=").append(change.reason())
            .append(" mono_ns=").append(change.monoNs())
            .append(" wall_ms=").append(change.wallMs())
            .append(" node=").append(node)
            .append(" process=").append(process);
        if (change.agent() != null) {
            line.append(" agent=").append(change.agent());
        }
        if (lostBefore > 0) {
            line.append(" lines_lost=").append(lostBefore);
        }
        if (change.detail() != null) {
            line.append(" detail=\"").append(printable(change.detail())).append('"');
        }
        return line.toString();
    }

    private void trace(Change change, long lostBefore) throws IOException {
        if (file == null) {
            return;
        }
        ObjectNode tree = json.createObjectNode()
            .put("scope", scope)
            .put("dc", dc)
            .put("node", node)
            .put("process", process)
            .put("users", change.users() ? "open" : "closed")
            .put("mirror", change.mirror() ? "open" : "closed")
            .put("role", change.roleWord())
            .put("epoch", change.epoch())
            .put("reason", change.reason().toString())
            .put("mono_ns", change.monoNs())
            .put("wall_ms", change.wallMs())
            .put("agent", change.agent())
            .put("detail", change.detail() == null ? null : printable(change.detail()));
        if (lostBefore > 0) {
            tree.put("lines_lost", lostBefore);
        }
        // One write a line: with O_APPEND the lines of two processes do not mix.
        ByteBuffer content = ByteBuffer.wrap((json.writeValueAsString(tree) + "\n").getBytes(StandardCharsets.UTF_8));
        while (content.hasRemaining()) {
            file.write(content);
        }
    }

    /** Details may quote what an agent sent: one line, bounded, nothing a terminal would obey. */
    static String printable(String text) {
        StringBuilder safe = new StringBuilder(Math.min(text.length(), MAX_DETAIL));
        for (int i = 0; i < text.length() && safe.length() < MAX_DETAIL; i++) {
            char c = text.charAt(i);
            safe.append(c == '"' ? '\'' : c >= ' ' && c < 0x7f ? c : '?');
        }
        return safe.toString();
    }
}
