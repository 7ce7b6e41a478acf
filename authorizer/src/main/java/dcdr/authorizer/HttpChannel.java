package dcdr.authorizer;

import javax.net.ssl.SSLContext;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Asks over HTTPS with a certificate on both sides, or over plain HTTP on this machine. */
final class HttpChannel implements Channel {

    private static final Duration CONNECT_LIMIT = Duration.ofSeconds(2);

    private final URI base;
    private final TlsFiles tls;
    private final ExecutorService executor = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task, "dcdr-gate-http");
        thread.setDaemon(true);
        return thread;
    });
    private HttpClient client;
    private String fingerprint;
    private String warning;

    /**
     * @param tls null for plain HTTP
     * @throws IOException if a TLS file cannot be used
     */
    HttpChannel(URI base, TlsFiles tls) throws IOException {
        this.base = base;
        this.tls = tls;
        this.fingerprint = tls == null ? "" : tls.fingerprint();
        this.client = client(tls == null ? null : tls.load());
    }

    @Override
    public byte[] ask(String target, Duration limit) throws Refusal, InterruptedException {
        long deadline = System.nanoTime() + limit.toNanos();
        followRotation();
        HttpRequest request = HttpRequest.newBuilder(base.resolve(target)).timeout(limit).GET().build();
        CompletableFuture<HttpResponse<byte[]>> pending = client.sendAsync(request, info -> new Bounded(Marker.MAX_BYTES));
        HttpResponse<byte[]> response;
        try {
            // HttpRequest.timeout ends with the headers; a body that trickles is ended here.
            response = pending.get(Math.max(0, deadline - System.nanoTime()), TimeUnit.NANOSECONDS);
        } catch (TimeoutException late) {
            pending.cancel(true);
            throw new Refusal(Reason.UNREACHABLE, "no whole answer in " + limit.toMillis() + " ms");
        } catch (InterruptedException stopping) {
            pending.cancel(true);
            throw stopping;
        } catch (ExecutionException failed) {
            throw refusal(failed.getCause(), limit);
        }
        if (response.statusCode() != 200) {
            throw new Refusal(Reason.NO_MARKER_SERVED, "status " + response.statusCode());
        }
        return response.body();
    }

    @Override
    public String warning() {
        return warning;
    }

    @Override
    public void close() {
        retire(client);
        executor.shutdownNow();
    }

    /** A certificate that was renewed on disk is used from the next question on; while it is half written, the old one is. */
    private void followRotation() {
        if (tls == null) {
            return;
        }
        try {
            String now = tls.fingerprint();
            if (!now.equals(fingerprint)) {
                HttpClient renewed = client(tls.load());
                retire(client);
                client = renewed;
                fingerprint = now;
            }
        } catch (IOException error) {
            warning = "still using the TLS files read before: " + error.getMessage();
            return;
        }
        warning = null;
    }

    private HttpClient client(SSLContext context) {
        HttpClient.Builder builder = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .followRedirects(HttpClient.Redirect.NEVER)
            .proxy(HttpClient.Builder.NO_PROXY)
            .connectTimeout(CONNECT_LIMIT)
            .executor(executor);
        return (context == null ? builder : builder.sslContext(context)).build();
    }

    /** From Java 21 on a client can be closed; before, its last thread ends when it is collected. */
    private static void retire(HttpClient old) {
        if (old instanceof AutoCloseable closeable) {
            try {
                closeable.close();
            } catch (Exception error) {
                // Nothing is pending on it, and nothing depends on its end.
            }
        }
    }

    private static Refusal refusal(Throwable cause, Duration limit) {
        for (Throwable each = cause; each != null; each = each.getCause()) {
            if (each instanceof TooLong) {
                return new Refusal(Reason.OVERSIZED, "more than " + Marker.MAX_BYTES + " bytes");
            }
            if (each instanceof java.net.http.HttpConnectTimeoutException) {
                return new Refusal(Reason.UNREACHABLE, "no connection in " + CONNECT_LIMIT.toMillis() + " ms");
            }
            if (each instanceof java.net.http.HttpTimeoutException) {
                return new Refusal(Reason.UNREACHABLE, "no answer in " + limit.toMillis() + " ms");
            }
        }
        return new Refusal(Reason.UNREACHABLE, String.valueOf(cause));
    }

    private static final class TooLong extends IOException {
        private static final long serialVersionUID = 1L;
    }

    /** Collects a body and gives up as soon as it is too long. */
    private static final class Bounded implements HttpResponse.BodySubscriber<byte[]> {

        private final int limit;
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream(512);
        private final CompletableFuture<byte[]> body = new CompletableFuture<>();
        private Flow.Subscription subscription;

        Bounded(int limit) {
            this.limit = limit;
        }

        @Override
        public CompletionStage<byte[]> getBody() {
            return body;
        }

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription = given;
            given.request(Long.MAX_VALUE);
        }

        @Override
        public void onNext(List<ByteBuffer> buffers) {
            for (ByteBuffer buffer : buffers) {
                byte[] part = new byte[buffer.remaining()];
                buffer.get(part);
                if (bytes.size() + part.length > limit) {
                    subscription.cancel();
                    body.completeExceptionally(new TooLong());
                    return;
                }
                bytes.write(part, 0, part.length);
            }
        }

        @Override
        public void onError(Throwable error) {
            body.completeExceptionally(error);
        }

        @Override
        public void onComplete() {
            body.complete(bytes.toByteArray());
        }
    }
}
