package dcdr.authorizer;

import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.StandardProtocolFamily;
import java.net.URLDecoder;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * An agent's marker endpoint on real sockets: it holds a question until its marker changes, as the real one does, and can be told to
 * misbehave down to the byte.
 */
final class StubAgent implements AutoCloseable {

    /** One question: the target's parameters, and the name in the certificate of who asked (null without TLS). */
    record Question(Map<String, String> parameters, String who, long atNs) {
        String get(String name) {
            return parameters.get(name);
        }
    }

    /** What to do with a question instead of answering it properly. */
    interface Behaviour {
        void answer(Question question, OutputStream out) throws Exception;
    }

    private interface Acceptor extends Closeable {
        Connection accept() throws IOException;
    }

    private record Connection(InputStream in, OutputStream out, Closeable socket) {
    }

    final List<Question> questions = new CopyOnWriteArrayList<>();
    final AtomicInteger pending = new AtomicInteger();
    volatile long refreshMs = 300;
    volatile long validMs = 10_000;
    volatile long clockOffMs;
    volatile String scope = "lab";
    volatile String dc = "dc-a";
    volatile String cluster = "c1";
    volatile Behaviour behaviour;

    private final String address;
    private final Path socketFile;
    private final Acceptor acceptor;
    private final Set<Closeable> open = ConcurrentHashMap.newKeySet();
    private final Thread thread;
    private Role role = Role.NONE;
    private long epoch;
    private int version;
    private boolean closed;

    private StubAgent(String address, Path socketFile, Acceptor acceptor) {
        this.address = address;
        this.socketFile = socketFile;
        this.acceptor = acceptor;
        this.thread = new Thread(this::accept, "stub-agent");
        this.thread.setDaemon(true);
        this.thread.start();
    }

    /** @param port 0 for any free one */
    static StubAgent http(int port) throws IOException {
        ServerSocket server = new ServerSocket();
        server.setReuseAddress(true);
        server.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port), 50);
        return new StubAgent("http://127.0.0.1:" + server.getLocalPort(), null, acceptor(server));
    }

    static StubAgent https(int port, TlsFiles files) throws IOException {
        return https(port, files.load());
    }

    private static StubAgent https(int port, SSLContext context) throws IOException {
        SSLServerSocket server = (SSLServerSocket) context.getServerSocketFactory().createServerSocket();
        server.setReuseAddress(true);
        server.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port), 50);
        server.setNeedClientAuth(true);
        return new StubAgent("https://127.0.0.1:" + server.getLocalPort(), null, acceptor(server));
    }

    static StubAgent unix(Path socket) throws IOException {
        ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        server.bind(UnixDomainSocketAddress.of(socket));
        return new StubAgent("unix:" + socket, socket, new Acceptor() {
            @Override
            public Connection accept() throws IOException {
                SocketChannel channel = server.accept();
                return new Connection(Channels.newInputStream(channel), Channels.newOutputStream(channel), channel);
            }

            @Override
            public void close() throws IOException {
                server.close();
            }
        });
    }

    String address() {
        return address;
    }

    int port() {
        return Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
    }

    /** From now on the marker says this; pending questions are answered at once. */
    synchronized void say(Role nowRole, long nowEpoch) {
        role = nowRole;
        epoch = nowEpoch;
        version++;
        notifyAll();
    }

    /** Wait as a real agent does, then give the marker as JSON. */
    synchronized String marker(String known) throws InterruptedException {
        long deadline = System.nanoTime() + refreshMs * 1_000_000L;
        while (!closed && ("v" + version).equals(known)) {
            long leftMs = (deadline - System.nanoTime()) / 1_000_000L;
            if (leftMs <= 0) {
                break;
            }
            wait(leftMs);
        }
        return "{\"scope\":\"" + scope + "\",\"dc\":\"" + dc + "\",\"cluster\":\"" + cluster + "\",\"epoch\":" + epoch + ",\"role\":\"" + role
            + "\",\"version\":\"v" + version + "\",\"valid_ms\":" + validMs + ",\"wall_ms\":" + (System.currentTimeMillis() + clockOffMs) + "}";
    }

    static void ok(OutputStream out, String body) throws IOException {
        raw(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + body.getBytes(StandardCharsets.UTF_8).length
            + "\r\n\r\n" + body);
    }

    static void raw(OutputStream out, String text) throws IOException {
        out.write(text.getBytes(StandardCharsets.UTF_8));
        out.flush();
    }

    /** Cut every connection, as a restart does; new ones are taken. */
    void cut() throws IOException {
        for (Closeable each : open) {
            each.close();
        }
    }

    @Override
    public void close() throws IOException {
        synchronized (this) {
            closed = true;
            notifyAll();
        }
        acceptor.close();
        cut();
        if (socketFile != null) {
            Files.deleteIfExists(socketFile);
        }
    }

    private static Acceptor acceptor(ServerSocket server) {
        return new Acceptor() {
            @Override
            public Connection accept() throws IOException {
                Socket socket = server.accept();
                socket.setTcpNoDelay(true);
                return new Connection(new Lazy(socket), new LazyOut(socket), socket);
            }

            @Override
            public void close() throws IOException {
                server.close();
            }
        };
    }

    private void accept() {
        while (true) {
            Connection connection;
            try {
                connection = acceptor.accept();
            } catch (IOException over) {
                return;
            }
            // Under the monitor: a connection that was accepted while we close must not live on and serve for ever.
            synchronized (this) {
                if (closed) {
                    closeQuietly(connection.socket);
                    return;
                }
                open.add(connection.socket);
            }
            Thread each = new Thread(() -> serve(connection), "stub-agent-connection");
            each.setDaemon(true);
            each.start();
        }
    }

    private static void closeQuietly(Closeable socket) {
        try {
            socket.close();
        } catch (IOException over) {
            // It is gone already.
        }
    }

    private void serve(Connection connection) {
        try (Closeable socket = connection.socket) {
            InputStream in = new BufferedInputStream(connection.in);
            String head;
            while ((head = head(in)) != null) {
                Question question = question(head, connection.socket instanceof SSLSocket tls ? tls.getSession().getPeerPrincipal().getName() : null);
                questions.add(question);
                pending.incrementAndGet();
                try {
                    Behaviour now = behaviour;
                    if (now != null) {
                        now.answer(question, connection.out);
                    } else {
                        ok(connection.out, marker(question.get("version")));
                    }
                } finally {
                    pending.decrementAndGet();
                }
                if (head.contains("Connection: close")) {
                    return;
                }
            }
        } catch (Exception over) {
            // The client went away, or its certificate was refused: it asks again or it does not.
        } finally {
            open.remove(connection.socket);
        }
    }

    private static String head(InputStream in) throws IOException {
        StringBuilder head = new StringBuilder();
        while (head.indexOf("\r\n\r\n") < 0) {
            int c = in.read();
            if (c < 0) {
                return null;
            }
            head.append((char) c);
        }
        return head.toString();
    }

    private static Question question(String head, String who) {
        String target = head.split(" ")[1];
        Map<String, String> parameters = new HashMap<>();
        if (!target.startsWith("/v1/marker?") || !head.startsWith("GET ")) {
            throw new IllegalArgumentException(head);
        }
        for (String pair : target.substring(target.indexOf('?') + 1).split("&")) {
            String[] parts = pair.split("=", 2);
            parameters.put(parts[0], URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        return new Question(parameters, who, System.nanoTime());
    }

    /** The streams of a TLS socket start the handshake, which must not keep others from being accepted. */
    private static final class Lazy extends InputStream {
        private final Socket socket;

        Lazy(Socket socket) {
            this.socket = socket;
        }

        @Override
        public int read() throws IOException {
            return socket.getInputStream().read();
        }

        @Override
        public int read(byte[] bytes, int from, int length) throws IOException {
            return socket.getInputStream().read(bytes, from, length);
        }
    }

    private static final class LazyOut extends OutputStream {
        private final Socket socket;

        LazyOut(Socket socket) {
            this.socket = socket;
        }

        @Override
        public void write(int one) throws IOException {
            socket.getOutputStream().write(one);
        }

        @Override
        public void write(byte[] bytes, int from, int length) throws IOException {
            socket.getOutputStream().write(bytes, from, length);
        }

        @Override
        public void flush() throws IOException {
            socket.getOutputStream().flush();
        }
    }
}
