package dcdr.authorizer;

import java.util.function.BooleanSupplier;

/** Waits with a limit and a reason. */
final class Waiting {

    private Waiting() {
    }

    static void until(String what, BooleanSupplier condition) throws InterruptedException {
        until(what, 10_000, condition);
    }

    static void until(String what, long limitMs, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + limitMs * 1_000_000L;
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() - deadline > 0) {
                throw new AssertionError("not within " + limitMs + " ms: " + what);
            }
            Thread.sleep(2);
        }
    }
}
