package dcdr.authorizer;

import org.apache.kafka.common.config.ConfigException;

import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.regex.Pattern;

/**
 * Where an agent listens: `https://host:port`, `unix:/path`, or `http://` on this machine.
 *
 * @param text   as configured; it names the agent in the audit trail
 * @param base   null for a socket file
 * @param socket null for a URL
 */
record AgentAddress(String text, URI base, Path socket) {

    /** By its spelling alone: a name that resolves to this machine now may resolve to another one later. */
    private static final Pattern LOOPBACK = Pattern.compile("localhost|127(\\.\\d{1,3}){3}|\\[::1]");

    static AgentAddress parse(String setting, String text) {
        if (text.startsWith("unix:")) {
            Path socket = Path.of(text.substring("unix:".length()));
            if (!socket.isAbsolute()) {
                throw new ConfigException(setting, text, "must name an absolute path, as in unix:/run/dcdr/agent.sock");
            }
            return new AgentAddress(text, null, socket);
        }
        URI uri;
        try {
            uri = new URI(text);
        } catch (URISyntaxException error) {
            throw new ConfigException(setting, text, "must be https://host:port or unix:/path: " + error.getMessage());
        }
        boolean bare = uri.getRawUserInfo() == null && uri.getRawQuery() == null && uri.getRawFragment() == null
            && (uri.getRawPath() == null || uri.getRawPath().isEmpty() || uri.getRawPath().equals("/"));
        if (uri.getHost() == null || !bare) {
            throw new ConfigException(setting, text, "must be https://host:port, with neither path nor user, or unix:/path");
        }
        if ("http".equals(uri.getScheme())) {
            if (!LOOPBACK.matcher(uri.getHost()).matches()) {
                throw new ConfigException(setting, text, "must be https: plain http is for 127.x.x.x, [::1] and localhost only,"
                    + " because whoever can answer for the agent opens the cluster");
            }
        } else if (!"https".equals(uri.getScheme())) {
            throw new ConfigException(setting, text, "must be https://host:port or unix:/path");
        }
        return new AgentAddress(text, uri.resolve("/"), null);
    }

    boolean needsTls() {
        return base != null && base.getScheme().equals("https");
    }
}
