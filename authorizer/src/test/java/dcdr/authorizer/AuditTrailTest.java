package dcdr.authorizer;

import org.apache.logging.log4j.LogManager;
import org.apache.logging.log4j.core.LogEvent;
import org.apache.logging.log4j.core.Logger;
import org.apache.logging.log4j.core.appender.AbstractAppender;
import org.apache.logging.log4j.core.config.Property;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

class AuditTrailTest {

    private final List<String> lines = new CopyOnWriteArrayList<>();
    private final CountDownLatch disk = new CountDownLatch(1);
    private volatile boolean stuck;
    private final Logger logger = (Logger) LogManager.getLogger(AuditTrail.LOGGER);
    private final AbstractAppender appender = new AbstractAppender("capture", null, null, true, Property.EMPTY_ARRAY) {
        @Override
        public void append(LogEvent event) {
            lines.add(event.getLevel() + " " + event.getMessage().getFormattedMessage());
            while (stuck && disk.getCount() > 0) {
                try {
                    disk.await();
                } catch (InterruptedException closing) {
                    return;
                }
            }
        }
    };

    @BeforeEach
    void capture() {
        appender.start();
        logger.addAppender(appender);
    }

    @AfterEach
    void release() {
        logger.removeAppender(appender);
    }

    @Test
    void a_change_is_one_line_that_a_person_and_a_program_can_read() throws Exception {
        try (AuditTrail trail = new AuditTrail(null, "lab", "dc-a", 1, "broker")) {
            trail.accept(new Change(true, false, Role.ACTIVE, 7, Reason.MARKER, 5, 6, "https://agent:7443", null));
            trail.accept(new Change(false, false, null, 7, Reason.EXPIRED, 8, 9, null, null));
            trail.accept(new Change(false, false, null, 7, Reason.EPOCH_FILE, 8, 9, "a", "mend it"));
        }
        assertEquals(List.of(
            "INFO gate users=open mirror=closed role=ACTIVE epoch=7 reason=marker mono_ns=5 wall_ms=6 node=1 process=broker agent=https://agent:7443",
            "WARN gate users=closed mirror=closed role=UNKNOWN epoch=7 reason=expired mono_ns=8 wall_ms=9 node=1 process=broker",
            "ERROR gate users=closed mirror=closed role=UNKNOWN epoch=7 reason=epoch-file mono_ns=8 wall_ms=9 node=1 process=broker agent=a"
                + " detail=\"mend it\""), lines);
    }

    @Test
    void what_an_agent_sent_cannot_forge_a_line() throws Exception {
        try (AuditTrail trail = new AuditTrail(null, "lab", "dc-a", 1, "broker")) {
            trail.accept(new Change(false, false, null, 7, Reason.FOREIGN_SCOPE, 8, 9, "a", "x\"\ngate users=open \u001b[2J\u202e" + "y".repeat(5_000)));
        }
        assertEquals(1, lines.size());
        assertTrue(lines.get(0).endsWith("y\"") && lines.get(0).contains("detail=\"x'?gate users=open ?[2J?yy"), lines.get(0));
        assertTrue(lines.get(0).length() < 600);
    }

    @Test
    void a_stuck_log_holds_nobody_up_and_what_is_lost_is_counted() throws Exception {
        stuck = true;
        try (AuditTrail trail = new AuditTrail(null, "lab", "dc-a", 1, "broker")) {
            long began = System.nanoTime();
            for (int i = 0; i < 6_000; i++) {
                trail.accept(new Change(false, false, null, i, Reason.STALE, 8, 9, "a", null));
            }
            assertTrue(System.nanoTime() - began < 2_000_000_000L, "accepting must not wait");
            disk.countDown();
        }
        int lost = lines.stream().filter(line -> line.contains("lines_lost=")).mapToInt(line -> Integer.parseInt(line.replaceAll(".*lines_lost=(\\d+).*", "$1"))).sum();
        assertEquals(6_000, lines.size() + lost);
        assertTrue(lost > 1_000, "lost " + lost);
    }
}
