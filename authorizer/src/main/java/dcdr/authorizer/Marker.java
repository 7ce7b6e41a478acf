package dcdr.authorizer;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;

import java.io.IOException;
import java.util.Iterator;
import java.util.Set;

/**
 * What an agent says its cluster is for.
 *
 * <p>Jackson reads it because the broker cannot run without Jackson (kafka_2.13 4.3.1 names jackson-databind 2.21.2 among
 * its own runtime dependencies); the schema is checked by hand, because data binding would take "7", 7.0 or null for a number.
 *
 * @param validMs how long the marker may be believed, in milliseconds from the agent's answer; it is counted from the
 *                moment the broker asked, so that every delay only shortens it
 * @param wallMs  the agent's wall clock at its answer, milliseconds since 1970 UTC
 * @param version opaque; differs whenever the agent wants a pending request answered
 */
record Marker(String scope, String dc, String cluster, long epoch, Role role, String version, long validMs, long wallMs) {

    /** An answer longer than this is refused unread. A marker has some 200 bytes. */
    static final int MAX_BYTES = 64 * 1024;

    /** Longest text in a marker: the version travels back in a request line, and servers bound those. */
    private static final int MAX_TEXT = 256;

    private static final Set<String> FIELDS =
        Set.of("scope", "dc", "cluster", "epoch", "role", "version", "valid_ms", "wall_ms");

    private static final JsonMapper JSON = strictJson();

    /** A reader that takes neither a field twice nor anything after the value. */
    static JsonMapper strictJson() {
        return JsonMapper.builder()
            .enable(DeserializationFeature.FAIL_ON_READING_DUP_TREE_KEY)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();
    }

    /**
     * Read a marker; every field must be there, once, and no other.
     *
     * @throws Refusal unreadable or oversized, naming the field
     */
    static Marker parse(byte[] answer) throws Refusal {
        if (answer.length > MAX_BYTES) {
            throw new Refusal(Reason.OVERSIZED, "more than " + MAX_BYTES + " bytes");
        }
        JsonNode tree;
        try {
            tree = JSON.readTree(answer);
        } catch (JsonProcessingException error) {
            throw new Refusal(Reason.UNREADABLE, "not JSON: " + error.getOriginalMessage());
        } catch (IOException error) {
            throw new Refusal(Reason.UNREADABLE, "not JSON: " + error.getMessage());
        }
        if (tree == null || !tree.isObject()) {
            throw new Refusal(Reason.UNREADABLE, "not a JSON object");
        }
        for (Iterator<String> names = tree.fieldNames(); names.hasNext(); ) {
            String name = names.next();
            if (!FIELDS.contains(name)) {
                throw new Refusal(Reason.UNREADABLE, "unknown field " + name);
            }
        }
        return new Marker(text(tree, "scope"), text(tree, "dc"), text(tree, "cluster"), number(tree, "epoch"), role(tree),
            text(tree, "version"), number(tree, "valid_ms"), number(tree, "wall_ms"));
    }

    private static Role role(JsonNode tree) throws Refusal {
        String name = text(tree, "role");
        for (Role role : Role.values()) {
            if (role.name().equals(name)) {
                return role;
            }
        }
        throw new Refusal(Reason.UNREADABLE, "unknown role " + name);
    }

    private static String text(JsonNode tree, String field) throws Refusal {
        JsonNode value = tree.get(field);
        if (value == null || !value.isTextual() || value.textValue().isEmpty() || value.textValue().length() > MAX_TEXT) {
            throw new Refusal(Reason.UNREADABLE, field + " is not a text of 1 to " + MAX_TEXT + " characters");
        }
        return value.textValue();
    }

    private static long number(JsonNode tree, String field) throws Refusal {
        JsonNode value = tree.get(field);
        if (value == null || !value.isIntegralNumber() || !value.canConvertToLong() || value.longValue() < 0) {
            throw new Refusal(Reason.UNREADABLE, field + " is not a whole number from 0 to 2^63-1");
        }
        return value.longValue();
    }
}
