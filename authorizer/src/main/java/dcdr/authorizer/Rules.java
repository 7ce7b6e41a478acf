package dcdr.authorizer;

import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.internals.Topic;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;

import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Which gate an action has to pass besides the ACLs. Fixed at start; reads nothing, allocates nothing.
 *
 * <p>Everybody is a user, super users and the brokers' own principal included, except the mirror's principals. Users need the
 * users' gate for WRITE, CREATE, DELETE, ALTER and ALTER_CONFIGS on topics and for WRITE on transactional ids (so that no open
 * transaction ends on a closed cluster), the mirror needs the mirror's. CREATE and DELETE on the <i>cluster</i> pass
 * the same gate: the controller asks for these first and looks at single topics only when they are refused (kafka 4.3.1,
 * ControllerApis.createTopics and deleteTopics, and KafkaApis for auto-creation), so an ungated answer there would let all topics through,
 * and a gated one costs nobody anything: the single topics are asked for next.
 *
 * <p>Free on a closed cluster, on purpose:
 * <ul>
 * <li>READ and DESCRIBE of everything, IDEMPOTENT_WRITE on the cluster (it hands out a producer id and writes nothing), and
 * CLUSTER_ACTION: replication and the brokers' own transaction checks.
 * <li>Groups, for users. A consumer of the closed side may go on reading and committing; what it commits after the positions
 * were read is stopped by the freeze of groups in the ACLs, which can be lifted a group at a time. The gate knows no groups.
 * <li>CREATE of Kafka's own three topics (__consumer_offsets, __transaction_state, __share_group_state): the broker makes them in
 * its own name when first needed, on a standby too, where Connect needs its group. Nobody may write to them for it.
 * <li>Exempt pairs: a named principal on a named internal topic, such as the ledger's writer.
 * <li>InitProducerId for the fencing principals: it ends an open transaction by aborting it, which is how a transaction
 * that was open when the gate closed is settled. The same principals' EndTxn, which could commit, stays gated.
 * <li>For the mirror, what a Connect worker needs to start and to keep its group while its data writes are
 * refused: its listed internal topics (config, offset, status, offset-syncs, checkpoints, heartbeats), joining and staying in a
 * group, and the listed transactional ids. With exactly-once support the leader of a Connect cluster writes its config topic
 * under the id connect-cluster-(group.id) (connect-runtime 4.3.1, DistributedConfig.transactionalProducerId); without that id
 * nobody could even stop a connector while the cluster is ACTIVE. The tasks' ids, which carry data, must not be listed: a task
 * writes data and offsets in one transaction, and with its id refused neither is committed.
 * </ul>
 *
 * <p>A group's READ covers joining and committing alike. For the mirror they are told apart by the request: JoinGroup, SyncGroup,
 * Heartbeat, LeaveGroup and ConsumerGroupHeartbeat are free, anything else under READ (OffsetCommit, TxnOffsetCommit and what
 * later versions may bring) and DELETE needs the mirror's gate, so the checkpoint connector cannot move a group on the active side.
 *
 * <p>Not gated, and said so: WriteTxnMarkers of an administrator (CLUSTER ALTER), and changes of ACLs.
 */
final class Rules {

    /** What an action needs. */
    enum Need { NOTHING, USERS, MIRROR }

    /** A principal that is no ordinary user, and what it may do however the gates stand. */
    private record Party(Need need, Set<String> topics, Set<String> transactionalIds, boolean mayFence) {
    }

    private static final Party ORDINARY = new Party(Need.USERS, Set.of(), Set.of(), false);

    private final Map<String, Map<String, Party>> parties = new HashMap<>();

    /**
     * @param mirrors                  principals of the mirror
     * @param internalTopics           topics the mirror may always use
     * @param internalTransactionalIds transactional ids the mirror may always use
     * @param fencers                  principals that may abort anybody's transaction
     * @param exempt                   topics a principal may always use
     */
    Rules(List<KafkaPrincipal> mirrors, Set<String> internalTopics, Set<String> internalTransactionalIds,
          List<KafkaPrincipal> fencers, Map<KafkaPrincipal, Set<String>> exempt) {
        Set<KafkaPrincipal> named = new HashSet<>(mirrors);
        named.addAll(fencers);
        named.addAll(exempt.keySet());
        for (KafkaPrincipal principal : named) {
            boolean mirror = mirrors.contains(principal);
            Set<String> topics = new HashSet<>(exempt.getOrDefault(principal, Set.of()));
            if (mirror) {
                topics.addAll(internalTopics);
            }
            Party party = new Party(mirror ? Need.MIRROR : Need.USERS, Set.copyOf(topics),
                mirror ? Set.copyOf(internalTransactionalIds) : Set.of(), fencers.contains(principal));
            // Keyed by the two names, not by the principal: a broker may build principals of a class of its own, which equal
            // no KafkaPrincipal. A mirror taken for a user would pass the users' gate.
            parties.computeIfAbsent(principal.getPrincipalType(), type -> new HashMap<>()).put(principal.getName(), party);
        }
    }

    /** Which gate this action of this request has to pass. */
    Need need(AuthorizableRequestContext context, Action action) {
        ResourcePattern resource = action.resourcePattern();
        AclOperation operation = action.operation();
        switch (resource.resourceType()) {
            case TOPIC:
                return topic(context, operation, resource.name());
            case TRANSACTIONAL_ID:
                return transactionalId(context, operation, resource.name());
            case CLUSTER:
                boolean topics = operation == AclOperation.CREATE || operation == AclOperation.DELETE;
                return topics ? party(context).need : Need.NOTHING;
            case GROUP:
                return group(context, operation);
            default:
                return Need.NOTHING;
        }
    }

    private Need topic(AuthorizableRequestContext context, AclOperation operation, String topic) {
        switch (operation) {
            case WRITE:
            case CREATE:
            case DELETE:
            case ALTER:
            case ALTER_CONFIGS:
            case ALL:
                break;
            default:
                return Need.NOTHING;
        }
        Party party = party(context);
        boolean free = party.topics.contains(topic) || operation == AclOperation.CREATE && Topic.isInternal(topic);
        return free ? Need.NOTHING : party.need;
    }

    private Need transactionalId(AuthorizableRequestContext context, AclOperation operation, String id) {
        if (operation != AclOperation.WRITE && operation != AclOperation.ALL) {
            return Need.NOTHING;
        }
        Party party = party(context);
        boolean fences = party.mayFence && context.requestType() == ApiKeys.INIT_PRODUCER_ID.id;
        return fences || party.transactionalIds.contains(id) ? Need.NOTHING : party.need;
    }

    private Need group(AuthorizableRequestContext context, AclOperation operation) {
        if (operation != AclOperation.READ && operation != AclOperation.DELETE && operation != AclOperation.ALL) {
            return Need.NOTHING;
        }
        if (party(context).need != Need.MIRROR) {
            return Need.NOTHING;
        }
        return operation == AclOperation.READ && isMembership(context.requestType()) ? Need.NOTHING : Need.MIRROR;
    }

    private static boolean isMembership(int request) {
        return request == ApiKeys.JOIN_GROUP.id || request == ApiKeys.SYNC_GROUP.id || request == ApiKeys.HEARTBEAT.id
            || request == ApiKeys.LEAVE_GROUP.id || request == ApiKeys.CONSUMER_GROUP_HEARTBEAT.id;
    }

    private Party party(AuthorizableRequestContext context) {
        KafkaPrincipal principal = context.principal();
        Map<String, Party> named = parties.get(principal.getPrincipalType());
        Party party = named == null ? null : named.get(principal.getName());
        return party == null ? ORDINARY : party;
    }
}
