package dcdr.authorizer;

/**
 * One line of the audit trail.
 *
 * @param role   null when nothing is believed
 * @param monoNs {@link Clock#nanoTime()} of the change: not later than an opening, not earlier than a closing; of an expiry the
 *               very end. On Linux this is CLOCK_MONOTONIC, so traces of one machine can be laid side by side.
 * @param wallMs {@link Clock#wallMs()} when the change was noticed
 * @param agent  the address of the agent it came from, or null
 * @param detail for people, or null
 */
record Change(boolean users, boolean mirror, Role role, long epoch, Reason reason, long monoNs, long wallMs, String agent,
              String detail) {

    String roleWord() {
        return role == null ? "UNKNOWN" : role.name();
    }
}
