------------------------------ MODULE Ownership ------------------------------
(***************************************************************************)
(* Who may write to one session, and how a message reaches it: creation,   *)
(* claim, activation, append, passivation, delivery, wake-up, takeover,    *)
(* drain and end, one action for each request to the table.                *)
(*                                                                         *)
(* To change it: an action is what one task of a node does between two     *)
(* requests; where the code does it is named beside it. Whatever a node    *)
(* has read stays with its task, so a node that stands still between two   *)
(* actions is a frozen one, and one that is declared dead meanwhile is a   *)
(* zombie.                                                                 *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Nodes,      \* node ids; none is used again
    Messages,   \* what the session is told, and waits for before it ends
    Timers,     \* events of its own that it records before it ends: 0 or 1
    EarlyEnd,   \* whether it may end at any time, without waiting
    Rests,      \* how often it may leave memory
    Faults,     \* how many faults there may be, of whatever kinds
    Broken      \* the rules taken out: {} is the protocol as it is

VARIABLES
    head,       \* HEAD
    journal,    \* event n stands at place n
    inbox,      \* messages that wait in the table
    notes,      \* nodes that were left a wake-up note
    mark,       \* nodes declared dead: the tombstones
    listed,     \* nodes that owned the session when they were declared dead
    up,         \* nodes whose process lives
    draining,   \* nodes that take no session any more
    actor,      \* of each node: its actor of the session
    task,       \* of each node: the creation or claim under its guard
    post,       \* of each node: the delivery that it carries out
    waking,     \* nodes that took a note and have not acted on it
    told,       \* of each message and "start": whether it was acknowledged
    faults,     \* how many faults there were
    rests       \* how often the session left memory

vars == <<head, journal, inbox, notes, mark, listed, up, draining, actor, task, post, waking, told, faults, rests>>
budget == <<faults, rests>>
table == <<head, journal, inbox, notes>>
cluster == <<mark, listed, up, draining>>

Nobody == "nobody"
NoHead == [st |-> "none", owner |-> Nobody, by |-> Nobody, epoch |-> 0, iv |-> 0, due |-> FALSE]
NoActor == [pc |-> "none", epoch |-> 0, iv |-> 0, seen |-> 0, len |-> 0, items |-> {}, changed |-> FALSE, direct |-> FALSE]
\* `sent`: its write took effect and the answer was lost; what stands there under its nonce is its own.
NoTask == [pc |-> "none", kind |-> "", dead |-> Nobody, owner |-> Nobody, epoch |-> 0, iv |-> 0, sent |-> FALSE]
NoPost == [pc |-> "none", m |-> "", to |-> Nobody, epoch |-> 0]
Holds(rule) == rule \notin Broken

Fault == faults < Faults /\ faults' = faults + 1 /\ UNCHANGED rests

Init ==
    /\ head = NoHead /\ journal = <<>> /\ inbox = {} /\ notes = {}
    /\ mark = {} /\ listed = {} /\ up = Nodes /\ draining = {} /\ waking = {}
    /\ actor = [n \in Nodes |-> NoActor]
    /\ task = [n \in Nodes |-> NoTask]
    /\ post = [n \in Nodes |-> NoPost]
    /\ told = [m \in Messages \cup {"start"} |-> "no"]
    /\ faults = 0 /\ rests = 0

(***************************************************************************)
(* What the journal says.                                                  *)
(***************************************************************************)
Kinds(len) == {journal[i].k : i \in 1..len}
HasEnded == "end" \in Kinds(Len(journal))
IsComplete(len) == Messages \subseteq Kinds(len) /\ (Timers = 0 \/ "timer" \in Kinds(len))
Event(n, k) == [k |-> k, e |-> actor[n].epoch, by |-> n]
\* Insert event len + 1 if its place is free; our own one stands there after a lost answer.
IsFree(n) == Len(journal) = actor[n].len
IsOurs(n, k) == Len(journal) > actor[n].len /\ journal[actor[n].len + 1] = Event(n, k)
Inserted(n, k) ==
    IF IsOurs(n, k) THEN journal
    ELSE IF IsFree(n) THEN Append(journal, Event(n, k))
    ELSE [journal EXCEPT ![actor[n].len + 1] = Event(n, k)]
MayInsert(n, k) == IsFree(n) \/ IsOurs(n, k) \/ ~Holds("insert")

(***************************************************************************)
(* What becomes of the tasks of a node.                                    *)
(***************************************************************************)
\* The actor leaves: a delivery that waits for it goes to the inbox (Router._told_directly).
Left(n) ==
    /\ actor' = [actor EXCEPT ![n] = NoActor]
    /\ post' = IF post[n].pc = "told" THEN [post EXCEPT ![n].pc = "put"] ELSE post
Goes(n, pc) == actor' = [actor EXCEPT ![n].pc = pc] /\ UNCHANGED post
Newborn(n, epoch, iv, isNew) ==
    [NoActor EXCEPT !.epoch = epoch, !.iv = iv, !.len = IF isNew THEN 1 ELSE 0,
                    !.pc = IF n \in draining THEN "handover"
                           ELSE IF ~isNew THEN "read" ELSE IF iv > 0 THEN "inbox" ELSE "idle"]
\* The task is over; the delivery or start that asked for it is durable.
Over(n) ==
    /\ task' = [task EXCEPT ![n] = NoTask]
    /\ IF task[n].kind = "deliver"
       THEN post' = [post EXCEPT ![n] = NoPost] /\ told' = [told EXCEPT ![post[n].m] = "yes"]
       ELSE /\ told' = IF task[n].kind = "start" THEN [told EXCEPT !["start"] = "yes"] ELSE told
            /\ UNCHANGED post
\* Router._bring_up: an actor that lives here lost its claim, and is replaced between two messages.
BroughtUp(n, epoch, iv, isNew) ==
    /\ task' = [task EXCEPT ![n].pc = IF isNew THEN "bringNew" ELSE "bring", ![n].epoch = epoch, ![n].iv = iv, ![n].sent = FALSE]
    /\ UNCHANGED <<post, told>>
BringUp(n) ==
    /\ task[n].pc \in {"bring", "bringNew"} /\ actor[n].pc \in {"none", "idle"}
    /\ actor' = [actor EXCEPT ![n] = Newborn(n, task[n].epoch, task[n].iv, task[n].pc = "bringNew")]
    /\ IF post[n].pc = "told"
       THEN /\ post' = [post EXCEPT ![n].pc = "put"]
            /\ task' = [task EXCEPT ![n] = NoTask]
            /\ told' = IF task[n].kind = "start" THEN [told EXCEPT !["start"] = "yes"] ELSE told
       ELSE Over(n)
    /\ UNCHANGED <<table, cluster, waking, budget>>

(***************************************************************************)
(* Creation: event 1, then HEAD, then the acknowledgement (Router.begin).  *)
(***************************************************************************)
IsStarting == \E n \in Nodes : task[n].kind = "start"
ReceiveStart(n) ==
    /\ n \in up \ draining /\ task[n].pc = "none"
    /\ IF told["start"] = "no" /\ ~IsStarting THEN UNCHANGED budget ELSE Fault
    /\ task' = [task EXCEPT ![n] = [NoTask EXCEPT !.pc = "event1", !.kind = "start"]]
    /\ UNCHANGED <<table, cluster, actor, post, waking, told>>
InsertEvent1(n) ==
    /\ task[n].pc = "event1"
    /\ IF journal = <<>>
       THEN /\ journal' = <<[k |-> "start", e |-> 1, by |-> n]>>
            /\ \/ task' = [task EXCEPT ![n].pc = "head"] /\ UNCHANGED budget
               \/ Fault /\ task' = [task EXCEPT ![n].sent = TRUE]
       ELSE /\ task' = [task EXCEPT ![n].pc = IF task[n].sent THEN "head" ELSE "look", ![n].sent = FALSE]
            /\ UNCHANGED <<journal, budget>>
    /\ UNCHANGED <<head, inbox, notes, cluster, actor, post, waking, told>>
\* Router._accepted_before: a creation that died half-way is completed.
LookForHead(n) ==
    /\ task[n].pc = "look"
    /\ IF head = NoHead /\ Holds("14")
       THEN task' = [task EXCEPT ![n].pc = "head"] /\ UNCHANGED <<post, told>>
       ELSE Over(n)
    /\ UNCHANGED <<table, cluster, actor, waking, budget>>
InsertHead(n) ==
    /\ task[n].pc = "head"
    /\ LET takes == n \notin draining
           mine == [st |-> "run", owner |-> IF takes THEN n ELSE Nobody, by |-> n, epoch |-> 1, iv |-> 0, due |-> ~takes]
       IN IF head = NoHead
          THEN /\ head' = mine
               /\ \/ Fault /\ task' = [task EXCEPT ![n].sent = TRUE] /\ UNCHANGED <<post, told>>
                  \/ UNCHANGED budget /\ IF takes THEN BroughtUp(n, 1, 0, TRUE) ELSE Over(n)
          ELSE /\ IF task[n].sent /\ head.by = n /\ head.epoch = 1 /\ head.owner = n /\ Holds("2nonce")
                  THEN BroughtUp(n, 1, head.iv, TRUE) ELSE Over(n)
               /\ UNCHANGED <<head, budget>>
    /\ UNCHANGED <<journal, inbox, notes, cluster, actor, waking>>

(***************************************************************************)
(* Claims (Router.claim): by whom, HEAD as read, and the write.            *)
(***************************************************************************)
Begin(n, kind, dead) ==
    /\ task[n].pc = "none"
    /\ task' = [task EXCEPT ![n] = [NoTask EXCEPT !.pc = "readHead", !.kind = kind, !.dead = dead]]
\* Rescuer._rescue_all: the list of a node with a tombstone.
Rescue(n, d) ==
    /\ n \in up \ draining /\ d \in mark /\ n # d /\ head.owner = d
    /\ Holds("3tombstone") \/ d \in listed
    /\ Begin(n, "dead", d)
    /\ UNCHANGED <<table, cluster, actor, post, waking, told, budget>>
\* Rescuer._audit_itself: ours by HEAD, and without an actor.
Audit(n) ==
    /\ n \in up \ draining /\ head.owner = n /\ actor[n].pc = "none" /\ Holds("2audit")
    /\ Begin(n, "own", Nobody)
    /\ UNCHANGED <<table, cluster, actor, post, waking, told, budget>>
\* Rescuer._wake_for_ever: nobody's, and due.
ClaimDue(n) ==
    /\ n \in up \ draining /\ head.st \in {"run", "susp"} /\ head.owner = Nobody /\ head.due
    /\ Begin(n, "due", Nobody)
    /\ UNCHANGED <<table, cluster, actor, post, waking, told, budget>>
MayClaim(n) ==
    /\ head.st \in {"run", "susp"}
    /\ CASE task[n].kind = "deliver" -> head.owner = Nobody
         [] task[n].kind = "due" -> head.owner = Nobody /\ head.due
         [] OTHER -> \/ head.owner \in {Nobody, task[n].dead}
                     \/ head.owner = n /\ actor[n].pc = "none"
\* A delivery that cannot claim makes the session due (Router._wake_unowned).
GivenUp(n) ==
    IF task[n].kind = "deliver"
    THEN task' = [task EXCEPT ![n].pc = "makeDue"] /\ UNCHANGED <<post, told>>
    ELSE Over(n)
ReadHead(n) ==
    /\ task[n].pc = "readHead"
    /\ IF MayClaim(n)
       THEN /\ task' = [task EXCEPT ![n].pc = "claim", ![n].owner = head.owner, ![n].epoch = head.epoch, ![n].iv = head.iv]
            /\ UNCHANGED <<post, told>>
       ELSE GivenUp(n)
    /\ UNCHANGED <<table, cluster, actor, waking, budget>>
WriteClaim(n) ==
    /\ task[n].pc = "claim"
    /\ LET epoch == task[n].epoch + 1
       IN IF head.owner = task[n].owner /\ (head.epoch = task[n].epoch \/ ~Holds("claim"))
          THEN /\ head' = [head EXCEPT !.owner = n, !.by = n, !.epoch = epoch, !.st = "run", !.due = FALSE]
               /\ \/ Fault /\ task' = [task EXCEPT ![n].sent = TRUE] /\ UNCHANGED <<post, told>>
                  \/ UNCHANGED budget /\ BroughtUp(n, epoch, head.iv, FALSE)
                  \* One that travelled in a batch returns no item: its inbox version is the one that was read.
                  \/ ~Holds("5claim") /\ task[n].owner # Nobody /\ UNCHANGED budget /\ BroughtUp(n, epoch, task[n].iv, FALSE)
          ELSE /\ IF task[n].sent /\ head.owner = n /\ head.by = n /\ head.epoch = epoch /\ Holds("2nonce")
                  THEN BroughtUp(n, epoch, head.iv, FALSE)
                  ELSE GivenUp(n)
               /\ UNCHANGED <<head, budget>>
    /\ UNCHANGED <<journal, inbox, notes, cluster, actor, waking>>
MakeDue(n) ==
    /\ task[n].pc = "makeDue"
    /\ head' = IF head.owner = Nobody /\ head.epoch = post[n].epoch /\ head.st # "end" THEN [head EXCEPT !.due = TRUE] ELSE head
    /\ \/ Over(n) /\ UNCHANGED budget
       \/ head' # head /\ Fault /\ UNCHANGED <<task, post, told>>
    /\ UNCHANGED <<journal, inbox, notes, cluster, actor, waking>>

(***************************************************************************)
(* The actor (SessionActor): activation.                                   *)
(***************************************************************************)
ReadJournal(n) ==
    /\ actor[n].pc = "read"
    /\ LET len == Len(journal)
           last == journal[len]
       IN IF last.k = "end"
          THEN actor' = [actor EXCEPT ![n].len = len, ![n].pc = "endHead"] /\ UNCHANGED post
          ELSE IF last.e > actor[n].epoch /\ Holds("4") THEN Left(n)
          ELSE /\ actor' = [actor EXCEPT ![n].len = len, ![n].pc = IF Holds("resumed") THEN "resume" ELSE "inbox"]
               /\ UNCHANGED post
    /\ UNCHANGED <<table, cluster, task, waking, told, budget>>
Resume(n) ==
    /\ actor[n].pc = "resume"
    /\ IF MayInsert(n, "resumed")
       THEN /\ journal' = Inserted(n, "resumed")
            /\ \/ /\ actor' = [actor EXCEPT ![n].len = @ + 1, ![n].pc = IF actor[n].iv > 0 THEN "inbox" ELSE "idle"]
                  /\ UNCHANGED budget
               \/ journal' # journal /\ Fault /\ UNCHANGED actor
       \* We own HEAD, and the former owner won this one race: go on from behind its event.
       ELSE actor' = [actor EXCEPT ![n].pc = "read"] /\ UNCHANGED <<journal, budget>>
    /\ UNCHANGED <<head, inbox, notes, cluster, task, post, waking, told>>

\* --- the inbox: HEAD's version is read before it (rule 5)
ReadInbox(n) ==
    /\ actor[n].pc = "inbox"
    /\ actor' = [actor EXCEPT ![n].items = inbox, ![n].pc = IF Holds("5") THEN "take" ELSE "version"]
    /\ UNCHANGED <<table, cluster, task, post, waking, told, budget>>
ReadVersionLate(n) ==
    /\ actor[n].pc = "version"
    /\ IF head.owner = n /\ head.epoch = actor[n].epoch
       THEN actor' = [actor EXCEPT ![n].iv = head.iv, ![n].pc = "take"] /\ UNCHANGED post
       ELSE Left(n)
    /\ UNCHANGED <<table, cluster, task, waking, told, budget>>
New(n) == actor[n].items \ (IF Holds("known") THEN Kinds(actor[n].len) ELSE {})
AppendMessage(n, m) ==
    /\ actor[n].pc = "take" /\ m \in New(n)
    /\ IF MayInsert(n, m)
       THEN /\ journal' = Inserted(n, m)
            /\ \/ actor' = [actor EXCEPT ![n].len = @ + 1, ![n].items = @ \ (IF Holds("known") THEN {} ELSE {m})]
                  /\ UNCHANGED <<post, budget>>
               \/ journal' # journal /\ Fault /\ UNCHANGED <<actor, post>>
       ELSE Left(n) /\ UNCHANGED <<journal, budget>>
    /\ UNCHANGED <<head, inbox, notes, cluster, task, waking, told>>
DeleteItems(n) ==
    /\ actor[n].pc = "take" /\ New(n) = {}
    /\ inbox' = inbox \ (actor[n].items \cup (IF Holds("known") THEN {} ELSE Kinds(actor[n].len)))
    /\ actor' = [actor EXCEPT ![n].items = {}, ![n].seen = actor[n].iv, ![n].pc = IF actor[n].direct THEN "direct" ELSE "idle"]
    /\ UNCHANGED <<head, journal, notes, cluster, task, post, waking, told, budget>>

\* --- what comes into its mailbox
LookIntoInbox(n) ==
    /\ actor[n].pc = "idle"
    /\ \/ actor[n].changed /\ actor' = [actor EXCEPT ![n].changed = FALSE, ![n].pc = "refresh"]
       \/ post[n].pc = "told" /\ actor' = [actor EXCEPT ![n].direct = TRUE, ![n].pc = "refresh"]
    /\ UNCHANGED <<table, cluster, task, post, waking, told, budget>>
Refresh(n) ==
    /\ actor[n].pc = "refresh"
    /\ IF head.owner # n \/ head.epoch # actor[n].epoch THEN Left(n)
       ELSE /\ UNCHANGED post
            /\ actor' = [actor EXCEPT ![n].iv = head.iv,
                                      ![n].pc = IF head.iv # actor[n].seen THEN "inbox"
                                                ELSE IF actor[n].direct THEN "direct" ELSE "idle"]
    /\ UNCHANGED <<table, cluster, task, waking, told, budget>>
TakeDirectly(n) ==
    /\ actor[n].pc = "direct"
    /\ LET m == post[n].m
           done == /\ post' = [post EXCEPT ![n] = NoPost]
                   /\ told' = [told EXCEPT ![m] = "yes"]
       IN IF m \in Kinds(actor[n].len)
          THEN /\ done /\ actor' = [actor EXCEPT ![n].direct = FALSE, ![n].pc = "idle"]
               /\ UNCHANGED <<journal, budget>>
          ELSE IF MayInsert(n, m)
          THEN /\ journal' = Inserted(n, m)
               /\ \/ /\ done /\ UNCHANGED budget
                     /\ actor' = [actor EXCEPT ![n].len = @ + 1, ![n].direct = FALSE, ![n].pc = "idle"]
                  \/ journal' # journal /\ Fault /\ UNCHANGED <<actor, post, told>>
          ELSE Left(n) /\ UNCHANGED <<journal, told, budget>>
    /\ UNCHANGED <<head, inbox, notes, cluster, task, waking>>

\* --- what its handler does: a timer rings, and it ends
AppendOwn(n, k, from, retried, next) ==
    /\ actor[n].pc \in {from, retried}
    /\ IF MayInsert(n, k)
       THEN /\ journal' = Inserted(n, k)
            /\ \/ actor' = [actor EXCEPT ![n].len = @ + 1, ![n].pc = next] /\ UNCHANGED <<post, budget>>
               \/ journal' # journal /\ Fault /\ Goes(n, retried)
       ELSE Left(n) /\ UNCHANGED <<journal, budget>>
    /\ UNCHANGED <<head, inbox, notes, cluster, task, waking, told>>
Ring(n) ==
    /\ Timers = 1 /\ (actor[n].pc = "ringAgain" \/ "timer" \notin Kinds(actor[n].len))
    /\ AppendOwn(n, "timer", "idle", "ringAgain", "idle")
End(n) == (actor[n].pc = "endAgain" \/ IsComplete(actor[n].len)) /\ AppendOwn(n, "end", "idle", "endAgain", "endHead")
EndEarly(n) == EarlyEnd /\ actor[n].pc = "idle" /\ AppendOwn(n, "end", "idle", "endAgain", "endHead")

\* --- HEAD writes of an owner: under its epoch, and only if no message came since HEAD was read
IsUnmoved(n) == head.epoch = actor[n].epoch /\ (head.iv = actor[n].iv \/ ~Holds("8"))
GiveUpHead(n, st, due, success, failure) ==
    /\ IF IsUnmoved(n) /\ head.owner = n
       THEN /\ head' = [head EXCEPT !.owner = Nobody, !.st = st, !.due = due]
            /\ \/ success /\ UNCHANGED budget
               \/ Fault /\ UNCHANGED <<actor, post>>
       \* What stands there is ours, after a lost answer.
       ELSE IF head.by = n /\ head.epoch = actor[n].epoch /\ head.owner = Nobody /\ head.st = st
       THEN success /\ UNCHANGED <<head, budget>>
       ELSE failure /\ UNCHANGED <<head, budget>>
    /\ UNCHANGED <<journal, inbox, notes, cluster, task, waking, told>>
\* SessionActor._settle: it waits, and leaves memory. What comes meanwhile waits in the mailbox (rule 6).
Rest(n) ==
    /\ actor[n].pc = "idle" /\ ~IsComplete(actor[n].len) /\ rests < Rests /\ rests' = rests + 1 /\ UNCHANGED faults
    /\ actor' = [actor EXCEPT ![n].pc = "rest"]
    /\ UNCHANGED <<table, cluster, task, post, waking, told>>
Passivate(n) ==
    /\ actor[n].pc = "rest"
    /\ GiveUpHead(n, "susp", Timers = 1 /\ "timer" \notin Kinds(actor[n].len), Left(n), Goes(n, "refresh"))
TakeWhileResting(n) ==
    /\ ~Holds("6") /\ actor[n].pc = "rest" /\ post[n].pc = "told" /\ IsFree(n) /\ post[n].m \notin Kinds(actor[n].len)
    /\ journal' = Inserted(n, post[n].m)
    /\ actor' = [actor EXCEPT ![n].len = @ + 1]
    /\ told' = [told EXCEPT ![post[n].m] = "yes"]
    /\ post' = [post EXCEPT ![n] = NoPost]
    /\ UNCHANGED <<head, inbox, notes, cluster, task, waking, budget>>
\* SessionActor.deactivate, on a node that drains: nobody's, and due now.
LeaveMemory(n) ==
    /\ n \in draining /\ actor[n].pc = "idle" /\ Goes(n, "handover")
    /\ UNCHANGED <<table, cluster, task, waking, told, budget>>
HandOver(n) == actor[n].pc = "handover" /\ GiveUpHead(n, "run", TRUE, Left(n), Goes(n, "handoverRefresh"))
EndHead(n) == actor[n].pc = "endHead" /\ GiveUpHead(n, "end", FALSE, Left(n), Goes(n, "endRefresh"))
RefreshAndRetry(n) ==
    /\ actor[n].pc \in {"handoverRefresh", "endRefresh"}
    /\ IF head.owner # n \/ head.epoch # actor[n].epoch THEN Left(n)
       ELSE /\ actor' = [actor EXCEPT ![n].iv = head.iv, ![n].pc = IF @ = "endRefresh" THEN "endHead" ELSE "handover"]
            /\ UNCHANGED post
    /\ UNCHANGED <<table, cluster, task, waking, told, budget>>

(***************************************************************************)
(* Delivery (Router.deliver) and wake-up (Router.wake).                    *)
(***************************************************************************)
IsUnderWay(m) == \E n \in Nodes : post[n].m = m
Receive(n, m) ==
    /\ n \in up \ draining /\ post[n].pc = "none" /\ (head # NoHead \/ ~Holds("1"))
    /\ IF told[m] = "no" /\ ~IsUnderWay(m) THEN UNCHANGED budget ELSE Fault
    /\ IF head.st = "end" THEN told' = [told EXCEPT ![m] = IF @ = "no" THEN "refused" ELSE @] /\ UNCHANGED post
       ELSE /\ post' = [post EXCEPT ![n] = [NoPost EXCEPT !.m = m, !.pc = IF head.owner = n /\ actor[n].pc # "none" THEN "told" ELSE "put"]]
            /\ UNCHANGED told
    /\ UNCHANGED <<table, cluster, actor, task, waking>>
PutIntoInbox(n) ==
    /\ post[n].pc = "put"
    /\ inbox' = inbox \cup {post[n].m}
    /\ post' = [post EXCEPT ![n].pc = "bump"]
    /\ UNCHANGED <<head, journal, notes, cluster, actor, task, waking, told, budget>>
BumpInbox(n) ==
    /\ post[n].pc = "bump"
    /\ head' = [head EXCEPT !.iv = @ + 1, !.st = IF @ = "none" THEN "run" ELSE @]
    /\ \/ Fault /\ UNCHANGED post
       \/ /\ UNCHANGED budget
          /\ post' = [post EXCEPT ![n].epoch = head.epoch, ![n].to = head.owner,
                                  ![n].pc = CASE head.st = "end" -> "refuse"
                                              [] head.owner = Nobody -> "unowned"
                                              [] head.owner = n -> "local"
                                              [] OTHER -> "note"]
    /\ UNCHANGED <<journal, inbox, notes, cluster, actor, task, waking, told>>
Refuse(n) ==
    /\ post[n].pc = "refuse"
    /\ inbox' = inbox \ {post[n].m}
    /\ told' = [told EXCEPT ![post[n].m] = IF @ = "no" THEN "refused" ELSE @]
    /\ post' = [post EXCEPT ![n] = NoPost]
    /\ UNCHANGED <<head, journal, notes, cluster, actor, task, waking, budget>>
Acknowledged(n) ==
    /\ post' = [post EXCEPT ![n] = NoPost]
    /\ told' = [told EXCEPT ![post[n].m] = "yes"]
LeaveNote(n) ==
    /\ post[n].pc = "note"
    /\ notes' = notes \cup {post[n].to}
    /\ Acknowledged(n)
    /\ UNCHANGED <<head, journal, inbox, cluster, actor, task, waking, budget>>
\* Whatever actor of it this node still holds (rule 7); a draining node leaves it to others.
ClaimToDeliver(n) ==
    /\ post[n].pc = "unowned" /\ task[n].pc = "none"
    /\ IF ~Holds("7") /\ actor[n].pc # "none"
       THEN actor' = [actor EXCEPT ![n].changed = TRUE] /\ Acknowledged(n) /\ UNCHANGED task
       ELSE /\ task' = [task EXCEPT ![n] = [NoTask EXCEPT !.kind = "deliver", !.pc = IF n \in draining THEN "makeDue" ELSE "readHead"]]
            /\ post' = [post EXCEPT ![n].pc = "claiming"]
            /\ UNCHANGED <<actor, told>>
    /\ UNCHANGED <<table, cluster, waking, budget>>
\* One that is being brought to life has HEAD as it was before: the guard is waited for.
Guarded(n) == task[n].pc = "none" \/ ~Holds("2guard")
Heard(n) ==
    IF actor[n].pc # "none" THEN actor' = [actor EXCEPT ![n].changed = TRUE] /\ UNCHANGED task
    ELSE UNCHANGED actor /\ IF task[n].pc = "none" THEN Begin(n, "wake", Nobody) ELSE UNCHANGED task
WakeHere(n) ==
    /\ post[n].pc = "local" /\ Guarded(n) /\ Heard(n) /\ Acknowledged(n)
    /\ UNCHANGED <<table, cluster, waking, budget>>
\* The note goes before the inbox is read: one that is left meanwhile is a new one.
TakeNote(n) ==
    /\ n \in up \cap notes /\ {n, <<n>>} \cap waking = {}
    /\ notes' = IF Holds("note") THEN notes \ {n} ELSE notes
    /\ waking' = waking \cup {n}
    /\ UNCHANGED <<head, journal, inbox, cluster, actor, task, post, told, budget>>
Wake(n) ==
    /\ n \in waking /\ Guarded(n) /\ Heard(n)
    /\ waking' = (waking \ {n}) \cup (IF Holds("note") THEN {} ELSE {<<n>>})
    /\ UNCHANGED <<table, cluster, post, told, budget>>
RemoveNoteLate(n) ==
    /\ <<n>> \in waking /\ notes' = notes \ {n} /\ waking' = waking \ {<<n>>}
    /\ UNCHANGED <<head, journal, inbox, cluster, actor, task, post, told, budget>>

(***************************************************************************)
(* Nodes: death, false or true; the fence; drain.                          *)
(***************************************************************************)
Gone(n) ==
    /\ up' = up \ {n} /\ waking' = waking \ {n, <<n>>}
    /\ actor' = [actor EXCEPT ![n] = NoActor]
    /\ task' = [task EXCEPT ![n] = NoTask]
    /\ post' = [post EXCEPT ![n] = NoPost]
Survives(n) == (up \ (mark \cup draining)) \ {n} # {}
Crash(n) ==
    /\ n \in up /\ Survives(n) /\ Fault /\ Gone(n)
    /\ UNCHANGED <<table, mark, listed, draining, told>>
Declared(n) == n \notin mark /\ mark' = mark \cup {n} /\ listed' = IF head.owner = n THEN listed \cup {n} ELSE listed
DeclareDead(n) ==
    /\ n \notin up /\ Declared(n)
    /\ UNCHANGED <<table, up, draining, actor, task, post, waking, told, budget>>
\* A node that stood still past the node timeout: from here on it is a zombie, with all that it had read.
DeclareFrozenDead(n) ==
    /\ n \in up /\ Survives(n) /\ Fault /\ Declared(n)
    /\ UNCHANGED <<table, up, draining, actor, task, post, waking, told>>
\* Its own beat finds the mark: the process ends (rule 3).
Fence(n) ==
    /\ n \in up \cap mark /\ Gone(n)
    /\ UNCHANGED <<table, mark, listed, draining, told, budget>>
Drain(n) ==
    /\ n \in up \ draining /\ Survives(n) /\ Fault /\ draining' = draining \cup {n}
    /\ UNCHANGED <<table, mark, listed, up, actor, task, post, waking, told>>
\* A drained node marks itself.
Leave(n) ==
    /\ n \in up \cap draining /\ actor[n].pc = "none" /\ Gone(n)
    /\ mark' = mark \cup {n} /\ listed' = IF head.owner = n THEN listed \cup {n} ELSE listed
    /\ UNCHANGED <<table, draining, told, budget>>
\* User code or AWS made the actor fail, or the caller of a claim gave up: HEAD stays as it is.
FailActor(n) ==
    /\ actor[n].pc # "none" /\ Fault /\ Left(n)
    /\ UNCHANGED <<table, cluster, task, waking, told>>
FailTask(n) ==
    /\ task[n].pc # "none" /\ Fault
    /\ task' = [task EXCEPT ![n] = NoTask]
    /\ post' = IF task[n].kind = "deliver" THEN [post EXCEPT ![n] = NoPost] ELSE post
    /\ UNCHANGED <<table, cluster, actor, waking, told>>

(***************************************************************************)
(* All of it. Progress is what a living node does as long as there is      *)
(* something to do; the rest are faults, and choices that nobody may rely  *)
(* on: nothing is promised because a session happens to leave memory.      *)
(***************************************************************************)
ProgressOf(n) ==
    \/ ReceiveStart(n) \/ InsertEvent1(n) \/ LookForHead(n) \/ InsertHead(n)
    \/ \E d \in Nodes : Rescue(n, d)
    \/ Audit(n) \/ ClaimDue(n) \/ ReadHead(n) \/ WriteClaim(n) \/ MakeDue(n) \/ BringUp(n)
    \/ ReadJournal(n) \/ Resume(n) \/ ReadInbox(n) \/ ReadVersionLate(n) \/ DeleteItems(n)
    \/ LookIntoInbox(n) \/ Refresh(n) \/ TakeDirectly(n) \/ Ring(n) \/ End(n) \/ TakeWhileResting(n)
    \/ Passivate(n) \/ LeaveMemory(n) \/ HandOver(n) \/ EndHead(n) \/ RefreshAndRetry(n)
    \/ \E m \in Messages : AppendMessage(n, m) \/ Receive(n, m)
    \/ PutIntoInbox(n) \/ BumpInbox(n) \/ Refuse(n) \/ LeaveNote(n) \/ ClaimToDeliver(n)
    \/ WakeHere(n) \/ TakeNote(n) \/ Wake(n) \/ RemoveNoteLate(n)
    \/ DeclareDead(n) \/ Fence(n) \/ Leave(n)
Choice(n) ==
    \/ EndEarly(n) \/ Rest(n) \/ Crash(n) \/ DeclareFrozenDead(n) \/ Drain(n) \/ FailActor(n) \/ FailTask(n)
Next == \E n \in Nodes : ProgressOf(n) \/ Choice(n)
\* A fault is never needed to go on: what counts as one is no progress.
Progress == (\E n \in Nodes : ProgressOf(n)) /\ faults' = faults
Spec == Init /\ [][Next]_vars /\ WF_vars(Progress)

(***************************************************************************)
(* Safety.                                                                 *)
(***************************************************************************)
I1_OnlyGrows == [][Len(journal') >= Len(journal) /\ \A i \in 1..Len(journal) : journal'[i] = journal[i]]_vars
I2_EndIsLast == \A i \in 1..Len(journal) : journal[i].k = "end" => i = Len(journal)
I3_AcceptedIsDurable == told["start"] = "yes" => head # NoHead /\ journal # <<>>
I7_EpochsNeverFall == \A i, j \in 1..Len(journal) : i < j => journal[i].e <= journal[j].e
Commits(n) == actor[n].pc \notin {"none", "read", "resume", "endHead", "endRefresh"} /\ actor[n].len = Len(journal)
I7_OneWriter == \A n, o \in Nodes : Commits(n) /\ Commits(o) => n = o
I9_Once == \A m \in Messages : Cardinality({i \in 1..Len(journal) : journal[i].k = m}) <= 1
I9_AcknowledgedIsDurable == \A m \in Messages : told[m] = "yes" => m \in inbox \/ m \in Kinds(Len(journal)) \/ HasEnded
RefusedOnlyAfterEnd == \A m \in Messages : told[m] = "refused" => HasEnded
EventsLead == (head # NoHead => journal # <<>>) /\ (head.st = "end" => HasEnded)

(***************************************************************************)
(* Liveness: a run that stops has seen every message and reached its end.  *)
(* The same twice: over all runs, and in the state where one stops, which  *)
(* a breadth-first search finds by the shortest way.                       *)
(***************************************************************************)
IsDone == HasEnded /\ head.st = "end" /\ \A m \in Messages : told[m] # "no"
I8_I9_NothingIsLeft == ENABLED Progress \/ IsDone
I8_I9_EverySessionEnds == <>[]IsDone

Symmetry == Permutations(Nodes)
=============================================================================
