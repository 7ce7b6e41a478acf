package dcdr.authorizer;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import java.nio.charset.StandardCharsets;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

class MarkerTest {

    private static final String WHOLE = "{\"scope\":\"lab\",\"dc\":\"dc-a\",\"cluster\":\"c1\",\"epoch\":7,\"role\":\"ACTIVE\","
        + "\"version\":\"v1\",\"valid_ms\":4321,\"wall_ms\":1763740000000}";

    @Test
    void a_whole_marker_is_read() throws Refusal {
        assertEquals(new Marker("lab", "dc-a", "c1", 7, Role.ACTIVE, "v1", 4321, 1763740000000L), parse(WHOLE));
    }

    @ParameterizedTest
    @ValueSource(strings = {"scope", "dc", "cluster", "epoch", "role", "version", "valid_ms", "wall_ms"})
    void a_marker_without_a_field_is_refused_and_the_field_is_named(String field) {
        String without = WHOLE.replaceFirst("\"" + field + "\":(\"[^\"]*\"|\\d+),?", "").replace(",}", "}");
        Refusal refusal = refused(without);
        assertEquals(Reason.UNREADABLE, refusal.reason());
        assertTrue(refusal.getMessage().contains(field), refusal.getMessage());
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "null", "7", "[]", "{", "hello", "{}",
        "{\"scope\":\"lab\"}",
        WHOLE + WHOLE,
        WHOLE + "x",
    })
    void what_is_no_marker_is_refused(String text) {
        assertEquals(Reason.UNREADABLE, refused(text).reason());
    }

    @ParameterizedTest
    @ValueSource(strings = {"\"7\"", "7.0", "7e0", "null", "-1", "9223372036854775808", "true", "[7]", "99999999999999999999999999"})
    void an_epoch_that_is_not_a_whole_number_is_refused(String epoch) {
        assertEquals(Reason.UNREADABLE, refused(WHOLE.replace("\"epoch\":7", "\"epoch\":" + epoch)).reason());
    }

    @ParameterizedTest
    @ValueSource(strings = {"\"active\"", "\"PRIMARY\"", "\"\"", "null", "1"})
    void an_unknown_role_is_refused(String role) {
        assertEquals(Reason.UNREADABLE, refused(WHOLE.replace("\"ACTIVE\"", role)).reason());
    }

    @Test
    void an_unknown_field_is_refused() {
        assertTrue(refused(WHOLE.replace("{\"scope\"", "{\"more\":1,\"scope\"")).getMessage().contains("more"));
    }

    @Test
    void a_field_that_stands_twice_is_refused() {
        assertEquals(Reason.UNREADABLE, refused(WHOLE.replace("\"epoch\":7", "\"epoch\":7,\"epoch\":8")).reason());
    }

    @Test
    void a_long_text_is_refused() {
        assertEquals(Reason.UNREADABLE, refused(WHOLE.replace("v1", "v".repeat(257))).reason());
    }

    @Test
    void an_answer_above_64_KiB_is_oversized_whatever_is_in_it() {
        assertEquals(Reason.OVERSIZED, refused(WHOLE + " ".repeat(Marker.MAX_BYTES)).reason());
    }

    private static Marker parse(String text) throws Refusal {
        return Marker.parse(text.getBytes(StandardCharsets.UTF_8));
    }

    private static Refusal refused(String text) {
        return assertThrows(Refusal.class, () -> parse(text));
    }
}
