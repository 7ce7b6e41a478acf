package dcdr.authorizer;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/**
 * The highest epoch this node has seen, on disk: a restart must not make it believe an older one.
 *
 * <p>One JSON object, `{"scope", "dc", "cluster", "epoch"}`. It only ever grows, also when the broker and the controller
 * of one node, or a forgotten second process, share it: each raise reads it again under a lock, on a file of its own because a
 * lock on a file that is replaced by rename protects nothing.
 *
 * <p>A missing file is a first start. A damaged or foreign file is never repaired nor overwritten here: which epoch it held is
 * a thing only the lease knows.
 */
final class EpochFile {

    /** In one JVM a file lock does not wait but throws, so the JVM's own instances queue here first. */
    private static final ReentrantLock ONE_AT_A_TIME = new ReentrantLock();

    private static final JsonMapper JSON = Marker.strictJson();
    private static final int MAX_BYTES = 4096;
    private static final long LOCK_LIMIT_MS = 2_000;

    private final Path file;
    private final String scope;
    private final String dc;
    private final String cluster;

    EpochFile(Path file, String scope, String dc, String cluster) {
        this.file = file;
        this.scope = scope;
        this.dc = dc;
        this.cluster = cluster;
    }

    /**
     * Read the epoch.
     *
     * @return -1 if there is no file yet
     * @throws IOException if it cannot be read or is damaged or another cluster's, saying what to do
     */
    long read() throws IOException {
        byte[] content;
        try {
            if (Files.size(file) > MAX_BYTES) {
                throw damaged("it is longer than " + MAX_BYTES + " bytes");
            }
            content = Files.readAllBytes(file);
        } catch (NoSuchFileException missing) {
            return -1;
        }
        JsonNode tree;
        try {
            tree = JSON.readTree(content);
        } catch (IOException error) {
            throw damaged("it is not JSON");
        }
        if (tree == null || !tree.isObject() || tree.size() != 4) {
            throw damaged("it is not an object of scope, dc, cluster and epoch");
        }
        if (!isText(tree, "scope", scope) || !isText(tree, "dc", dc) || !isText(tree, "cluster", cluster)) {
            throw damaged("it is not of scope " + scope + ", dc " + dc + ", cluster " + cluster);
        }
        JsonNode epoch = tree.get("epoch");
        if (epoch == null || !epoch.isIntegralNumber() || !epoch.canConvertToLong() || epoch.longValue() < 0) {
            throw damaged("its epoch is not a whole number from 0 to 2^63-1");
        }
        return epoch.longValue();
    }

    /**
     * Make the file hold `epoch`, or the later one it already holds, durably.
     *
     * @return what it holds now
     * @throws IOException if it is damaged, locked for longer than 2 s, or cannot be written
     */
    long raise(long epoch) throws IOException, InterruptedException {
        if (!ONE_AT_A_TIME.tryLock(LOCK_LIMIT_MS, TimeUnit.MILLISECONDS)) {
            throw locked();
        }
        try (FileChannel lockFile = FileChannel.open(beside(".lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
             FileLock held = lock(lockFile)) {
            long stands = read();
            if (stands >= epoch) {
                return stands;
            }
            write(epoch);
            return epoch;
        } finally {
            ONE_AT_A_TIME.unlock();
        }
    }

    private FileLock lock(FileChannel lockFile) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(LOCK_LIMIT_MS);
        while (true) {
            FileLock lock = lockFile.tryLock();
            if (lock != null) {
                return lock;
            }
            if (System.nanoTime() - deadline > 0) {
                throw locked();
            }
            Thread.sleep(10);
        }
    }

    private void write(long epoch) throws IOException {
        ObjectNode tree = JSON.createObjectNode().put("scope", scope).put("dc", dc).put("cluster", cluster).put("epoch", epoch);
        ByteBuffer content = ByteBuffer.wrap((tree + "\n").getBytes(StandardCharsets.UTF_8));
        Path fresh = beside(".new");
        try (FileChannel channel = FileChannel.open(fresh, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
            StandardOpenOption.TRUNCATE_EXISTING)) {
            while (content.hasRemaining()) {
                channel.write(content);
            }
            channel.force(true);
        }
        Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE);
        // The rename itself is durable only with the folder.
        try (FileChannel folder = FileChannel.open(file.toAbsolutePath().getParent(), StandardOpenOption.READ)) {
            folder.force(true);
        }
    }

    private Path beside(String ending) {
        return file.resolveSibling(file.getFileName() + ending);
    }

    private static boolean isText(JsonNode tree, String field, String expected) {
        JsonNode value = tree.get(field);
        return value != null && value.isTextual() && value.textValue().equals(expected);
    }

    private IOException damaged(String how) {
        return new IOException("the epoch file " + file + " is not usable: " + how + ". Both gates stay closed. Look up the epoch"
            + " of the lease; then either write it there ({\"scope\": \"" + scope + "\", \"dc\": \"" + dc + "\", \"cluster\": \"" + cluster
            + "\", \"epoch\": N}), or, when no agent can serve an older one, remove the file. No restart is needed.");
    }

    private IOException locked() {
        return new IOException("the epoch file " + file + " has been locked for " + LOCK_LIMIT_MS
            + " ms: another process holds " + beside(".lock") + ", look for a second or frozen broker on this machine");
    }
}
