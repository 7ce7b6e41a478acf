package dcdr.authorizer;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

class EpochFileTest {

    @TempDir
    Path folder;

    @Test
    void a_missing_file_is_a_first_start() throws Exception {
        assertEquals(-1, file().read());
        assertEquals(3, file().raise(3));
        assertEquals(3, file().read());
        assertEquals("{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c1\",\"epoch\":3}\n", Files.readString(path()));
    }

    @Test
    void it_never_goes_back() throws Exception {
        file().raise(9);
        assertEquals(9, file().raise(4));
        assertEquals(9, file().read());
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "7", "{}", "{\"epoch\":7}", "hello", "{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c1\",\"epoch\":-2}",
        "{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c1\",\"epoch\":\"7\"}", "{\"scope\":\"lab\",\"dc\":\"dc-b\",\"cluster\":\"c1\",\"epoch\":7}",
        "{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c2\",\"epoch\":7}", "{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c1\",\"epoch\":7,\"x\":1}"})
    void a_damaged_or_foreign_file_is_kept_and_the_message_says_what_to_do(String content) throws Exception {
        Files.writeString(path(), content);
        IOException error = assertThrows(IOException.class, () -> file().read());
        assertTrue(error.getMessage().contains("remove the file") && error.getMessage().contains(path().toString()), error.getMessage());
        assertThrows(IOException.class, () -> file().raise(8));
        assertEquals(content, Files.readString(path()));
    }

    @Test
    void a_file_that_cannot_be_written_is_an_error() throws Exception {
        Files.createDirectory(folder.resolve("epoch.new")); // stands where the new content is written
        assertThrows(IOException.class, () -> file().raise(1));
        assertEquals(-1, file().read());
    }

    @Test
    void many_instances_keep_the_highest() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        try {
            List<Future<Long>> raised = new ArrayList<>();
            for (int i = 0; i < 64; i++) {
                long epoch = (i * 37) % 64;
                raised.add(pool.submit(() -> file().raise(epoch)));
            }
            for (int i = 0; i < 64; i++) {
                assertTrue(raised.get(i).get() >= (i * 37) % 64);
            }
        } finally {
            pool.shutdownNow();
        }
        assertEquals(63, file().read());
    }

    @Test
    void another_process_that_holds_the_lock_is_waited_for_with_a_limit() throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        Process other = new ProcessBuilder(java, "-Xshare:auto", "-cp", System.getProperty("java.class.path"), LockHolder.class.getName(),
            folder.resolve("epoch.lock").toString()).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            assertEquals('L', other.getInputStream().read());
            IOException error = assertThrows(IOException.class, () -> file().raise(1));
            assertTrue(error.getMessage().contains("locked"), error.getMessage());
        } finally {
            other.destroyForcibly().waitFor();
        }
        assertEquals(1, file().raise(1));
    }

    /** A process that takes the lock and waits to be killed. */
    static final class LockHolder {
        public static void main(String[] arguments) throws Exception {
            try (FileChannel channel = FileChannel.open(Path.of(arguments[0]), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
                 FileLock lock = channel.lock()) {
                System.out.print(lock.isValid() ? "L" : "?");
                System.out.flush();
                Thread.sleep(60_000);
            }
        }
    }

    private Path path() {
        return folder.resolve("epoch");
    }

    private EpochFile file() {
        return new EpochFile(path(), "lab", "dc-a", "c1");
    }
}
