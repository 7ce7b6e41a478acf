package dcdr.authorizer;

import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.resource.ResourceType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

class SettingsTest {

    @TempDir
    Path folder;
    private final Map<String, Object> broker = new HashMap<>();

    @BeforeEach
    void least() {
        broker.put("node.id", "1");
        broker.put("dcdr.authorizer.scope", "lab");
        broker.put("dcdr.authorizer.dc", "dc-a");
        broker.put("dcdr.authorizer.agents", "unix:/run/agent.sock");
        broker.put("dcdr.authorizer.mirror.principals", "User:mirror");
        broker.put("dcdr.authorizer.epoch.file", folder.resolve("epoch").toString());
    }

    @Test
    void the_least_that_must_be_set_is_enough() {
        Settings settings = Settings.parse(broker);
        assertEquals(2_000, settings.skewMs());
        assertEquals(4_000, settings.requestTimeoutMs());
        assertEquals(60_000, settings.maxValidMs());
        assertNull(settings.tls());
        assertNull(settings.traceFile());
    }

    @ParameterizedTest
    @ValueSource(strings = {"scope", "dc", "agents", "mirror.principals", "epoch.file"})
    void what_is_missing_is_named(String setting) {
        broker.remove("dcdr.authorizer." + setting);
        assertTrue(refused().contains("set dcdr.authorizer." + setting));
        broker.put("dcdr.authorizer." + setting, "  ");
        assertTrue(refused().contains("set dcdr.authorizer." + setting));
    }

    @Test
    void a_setting_that_does_not_exist_is_refused() {
        broker.put("dcdr.authorizer.skew", "5");
        assertTrue(refused().contains("dcdr.authorizer.skew is not a setting"));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "agents | http://agent:7443 | must be https",
        "agents | http://10.1.2.3:7443 | must be https",
        "agents | http://localhost.example:7443 | must be https",
        "agents | http://127.0.0.1.example:7443 | must be https",
        "agents | https://agent:7443/path | neither path",
        "agents | https://u:p@agent:7443 | neither path",
        "agents | https://agent:7443?x=1 | neither path",
        "agents | ftp://agent | must be https",
        "agents | agent:7443 | must be https",
        "agents | unix:agent.sock | absolute",
        "agents | unix:/a,unix:/a | twice",
        "mirror.principals | mirror | as in User:mirror",
        "mirror.principals | User:* | one principal",
        "mirror.principals | User:a,User:b | semicolons",
        "fencing.principals | User:a,User:b | semicolons",
        "exempt | User:dcdr | principal@topic",
        "exempt | User:dcdr@ledger.internal,User:x@y | semicolons",
        "exempt | User:dcdr@* | in full",
        "internal.topics | mm2-.* | in full",
        "internal.topics | .*.internal | in full",
        "epoch.file | epoch | absolute",
        "epoch.file | /nowhere/at/all/epoch | folder that exists",
        "skew.ms | -1 | from 0",
        "skew.ms | 2s | whole number",
        "request.timeout.ms | 0 | from 100",
        "max.valid.ms | 9999999999 | from 100",
        "trace.file | trace | absolute",
        "trace.file | /nowhere/at/all/trace | absolute path of a file that",
    })
    void a_wrong_value_is_refused_with_what_to_set(String setting, String value, String told) {
        broker.put("dcdr.authorizer." + setting, value);
        String message = refused();
        assertTrue(message.contains(told) && message.contains("dcdr.authorizer." + setting), message);
    }

    @ParameterizedTest
    @ValueSource(strings = {"http://127.0.0.1:7", "http://localhost:7", "http://[::1]:7", "unix:/a"})
    void an_agent_on_this_machine_needs_no_tls(String agent) {
        broker.put("dcdr.authorizer.agents", agent);
        assertNull(Settings.parse(broker).tls());
    }

    @Test
    void an_https_agent_needs_the_three_tls_files_and_they_must_be_usable() throws Exception {
        broker.put("dcdr.authorizer.agents", "https://agent-1:7443,https://agent-2:7443");
        TlsFiles files = new Certificates("authority").issue(folder, "broker", "EC");
        for (String[] each : new String[][] {{"certificate", files.certificate().toString()}, {"key", files.key().toString()},
            {"ca", files.ca().toString()}}) {
            assertTrue(refused().contains("set dcdr.authorizer.tls." + each[0]));
            broker.put("dcdr.authorizer.tls." + each[0], each[1]);
        }
        assertEquals(files, Settings.parse(broker).tls());
        Files.delete(files.key());
        assertTrue(refused().contains(files.key().toString()));
    }

    @Test
    void principals_may_hold_commas_and_at_signs() {
        broker.put("dcdr.authorizer.mirror.principals", "User:mirror ; User:CN=mirror,O=example");
        broker.put("dcdr.authorizer.internal.topics", "connect-configs, connect-status");
        broker.put("dcdr.authorizer.exempt", "User:dcdr@EXAMPLE.ORG@ledger.internal;User:CN=x,O=y@ledger.internal");
        Rules rules = Settings.parse(broker).rules();
        assertEquals(Rules.Need.MIRROR, rules.need(Request.of("CN=mirror,O=example"), write("orders")));
        assertEquals(Rules.Need.NOTHING, rules.need(Request.of("CN=mirror,O=example"), write("connect-status")));
        assertEquals(Rules.Need.NOTHING, rules.need(Request.of("dcdr@EXAMPLE.ORG"), write("ledger.internal")));
        assertEquals(Rules.Need.NOTHING, rules.need(Request.of("CN=x,O=y"), write("ledger.internal")));
        assertEquals(Rules.Need.USERS, rules.need(Request.of("CN=x,O=y"), write("connect-status")));
    }

    private static org.apache.kafka.server.authorizer.Action write(String topic) {
        return Request.action(AclOperation.WRITE, ResourceType.TOPIC, topic);
    }

    private String refused() {
        return assertThrows(ConfigException.class, () -> Settings.parse(broker)).getMessage();
    }
}
