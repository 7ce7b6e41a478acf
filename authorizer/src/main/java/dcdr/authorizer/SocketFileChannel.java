package dcdr.authorizer;

import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;

/**
 * Asks over a Unix socket: HTTP/1.1, one connection a question.
 *
 * <p>`java.net.http` knows no Unix sockets. This speaks the least that is needed and refuses the rest: an answer must have
 * a Content-Length (no chunks), its head at most 8 KiB, its body at most {@link Marker#MAX_BYTES}.
 */
final class SocketFileChannel implements Channel {

    private static final int MAX_HEAD = 8 * 1024;

    private final Path socket;

    SocketFileChannel(Path socket) {
        this.socket = socket;
    }

    @Override
    public byte[] ask(String target, Duration limit) throws Refusal, InterruptedException {
        long deadline = System.nanoTime() + limit.toNanos();
        String request = "GET " + target + " HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
        try (SocketChannel channel = SocketChannel.open(StandardProtocolFamily.UNIX); Selector selector = Selector.open()) {
            channel.configureBlocking(false);
            SelectionKey key = channel.register(selector, SelectionKey.OP_CONNECT);
            if (!channel.connect(UnixDomainSocketAddress.of(socket))) {
                while (!channel.finishConnect()) {
                    await(selector, deadline, limit);
                }
            }
            key.interestOps(SelectionKey.OP_WRITE);
            ByteBuffer out = ByteBuffer.wrap(request.getBytes(StandardCharsets.US_ASCII));
            while (channel.write(out) >= 0 && out.hasRemaining()) {
                await(selector, deadline, limit);
            }
            key.interestOps(SelectionKey.OP_READ);
            return answer(channel, selector, deadline, limit);
        } catch (IOException error) {
            throw new Refusal(Reason.UNREACHABLE, error.toString());
        }
    }

    @Override
    public void close() {
        // Nothing is kept between two questions.
    }

    private static byte[] answer(SocketChannel channel, Selector selector, long deadline, Duration limit)
        throws IOException, Refusal, InterruptedException {
        ByteBuffer in = ByteBuffer.allocate(MAX_HEAD + Marker.MAX_BYTES);
        int headEnd = -1;
        int length = -1;
        while (true) {
            if (headEnd < 0) {
                headEnd = headEnd(in);
                if (headEnd < 0 && in.position() > MAX_HEAD) {
                    throw new Refusal(Reason.UNREADABLE, "the head of the answer is longer than " + MAX_HEAD + " bytes");
                }
                if (headEnd >= 0) {
                    length = bodyLength(new String(in.array(), 0, headEnd, StandardCharsets.ISO_8859_1));
                }
            }
            if (headEnd >= 0 && in.position() >= headEnd + length) {
                return Arrays.copyOfRange(in.array(), headEnd, headEnd + length);
            }
            int count = channel.read(in);
            if (count < 0) {
                throw new Refusal(Reason.UNREACHABLE, "the answer was cut off after " + in.position() + " bytes");
            }
            if (count == 0) {
                await(selector, deadline, limit);
            }
        }
    }

    /** Where the body starts, or -1. */
    private static int headEnd(ByteBuffer in) {
        byte[] bytes = in.array();
        for (int i = 0; i + 3 < in.position(); i++) {
            if (bytes[i] == '\r' && bytes[i + 1] == '\n' && bytes[i + 2] == '\r' && bytes[i + 3] == '\n') {
                return i + 4;
            }
        }
        return -1;
    }

    private static int bodyLength(String head) throws Refusal {
        String[] lines = head.split("\r\n");
        String[] status = lines[0].split(" ", 3);
        if (status.length < 2 || !status[0].startsWith("HTTP/1.")) {
            throw new Refusal(Reason.UNREADABLE, "not an HTTP/1.x answer");
        }
        if (!status[1].equals("200")) {
            throw new Refusal(Reason.NO_MARKER_SERVED, "status " + status[1]);
        }
        int length = -1;
        for (int i = 1; i < lines.length; i++) {
            int colon = lines[i].indexOf(':');
            String name = colon < 0 ? "" : lines[i].substring(0, colon).strip();
            if (name.equalsIgnoreCase("transfer-encoding") || name.equalsIgnoreCase("content-length") && length >= 0) {
                throw new Refusal(Reason.UNREADABLE, "the answer must have one Content-Length and no Transfer-Encoding");
            }
            if (name.equalsIgnoreCase("content-length")) {
                length = contentLength(lines[i].substring(colon + 1).strip());
            }
        }
        if (length < 0) {
            throw new Refusal(Reason.UNREADABLE, "the answer has no Content-Length");
        }
        return length;
    }

    private static int contentLength(String text) throws Refusal {
        if (!text.matches("\\d{1,10}")) {
            throw new Refusal(Reason.UNREADABLE, "Content-Length " + text);
        }
        long length = Long.parseLong(text);
        if (length > Marker.MAX_BYTES) {
            throw new Refusal(Reason.OVERSIZED, "more than " + Marker.MAX_BYTES + " bytes");
        }
        return (int) length;
    }

    private static void await(Selector selector, long deadline, Duration limit) throws IOException, Refusal, InterruptedException {
        long left = deadline - System.nanoTime();
        if (left <= 0) {
            throw new Refusal(Reason.UNREACHABLE, "no whole answer in " + limit.toMillis() + " ms");
        }
        selector.select(left / 1_000_000L + 1);
        selector.selectedKeys().clear();
        if (Thread.interrupted()) {
            throw new InterruptedException();
        }
    }
}
