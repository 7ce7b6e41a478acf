package dcdr.authorizer;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

class TlsFilesTest {

    @TempDir
    Path folder;

    @ParameterizedTest
    @ValueSource(strings = {"RSA", "EC", "Ed25519"})
    void a_key_of_each_kind_is_read(String algorithm) throws Exception {
        assertNotNull(new Certificates("authority").issue(folder, "broker", algorithm).load());
    }

    @Test
    void a_key_of_another_certificate_is_refused() throws Exception {
        Certificates authority = new Certificates("authority");
        TlsFiles one = authority.issue(folder, "one", "EC");
        TlsFiles two = authority.issue(folder, "two", "EC");
        assertTrue(message(new TlsFiles(one.certificate(), two.key(), one.ca())).contains("is not the key of"));
    }

    @Test
    void a_key_that_is_not_pkcs8_is_refused_with_the_command_that_mends_it() throws Exception {
        TlsFiles files = new Certificates("authority").issue(folder, "broker", "EC");
        Files.writeString(files.key(), Files.readString(files.key()).replace("PRIVATE KEY", "EC PRIVATE KEY"));
        assertTrue(message(files).contains("openssl pkcs8"));
    }

    @Test
    void no_message_quotes_a_key() throws Exception {
        TlsFiles files = new Certificates("authority").issue(folder, "broker", "EC");
        String body = "c2VjcmV0IHNlY3JldCBzZWNyZXQ=";
        Files.writeString(files.key(), "-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n");
        assertFalse(message(files).contains(body));
        assertFalse(message(files).contains("secret"));
    }

    @Test
    void a_missing_or_empty_file_is_named() throws Exception {
        TlsFiles files = new Certificates("authority").issue(folder, "broker", "EC");
        Files.writeString(files.ca(), "");
        assertTrue(message(files).contains(files.ca().toString()));
        Files.delete(files.certificate());
        assertTrue(message(files).contains(files.certificate().toString()));
    }

    @Test
    void a_replaced_file_changes_the_fingerprint() throws Exception {
        Certificates authority = new Certificates("authority");
        TlsFiles files = authority.issue(folder, "broker", "EC");
        String before = files.fingerprint();
        authority.issue(folder, "fresh", "EC");
        Files.move(folder.resolve("fresh.crt"), files.certificate(), java.nio.file.StandardCopyOption.REPLACE_EXISTING);
        assertNotEquals(before, files.fingerprint());
    }

    private static String message(TlsFiles files) {
        return assertThrows(IOException.class, files::load).getMessage();
    }
}
