package dcdr.authorizer;

/** What a cluster is for now, in the agent's words. At most one class of writers may write in any role. */
enum Role {
    /** Users write, the mirror does not. */
    ACTIVE,
    /** The mirror writes, users do not. */
    STANDBY,
    /** Nobody writes. */
    NONE
}
