----------------------------- MODULE Generations -----------------------------
(***************************************************************************)
(* How a message reaches a session that goes on in its next generation:    *)
(* HEAD becomes CONTINUED, whoever has its outbox begins the next one and  *)
(* hands over what waits in the old inbox, and deliveries follow.          *)
(*                                                                         *)
(* To change it: an action is one request to the table. That whoever owns  *)
(* a generation sees what is in its inbox is `Ownership`'s affair, and     *)
(* given here.                                                             *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
    Tasks,      \* what nodes do at once: tell of the end, or deliver
    Messages,
    Faults,     \* deaths of a task, repetitions, and claims of an outbox whose teller lives
    Broken      \* the rules taken out: {} is the protocol as it is

VARIABLES
    old,        \* HEAD of the old generation: "run" or "continued"
    outbox,     \* whether its outbox says that the next one is to begin
    epoch,      \* of the old HEAD
    next,       \* whether the next generation has begun
    oldInbox, newInbox,
    heard,      \* what a journal holds: known to all later generations
    task,
    told,       \* messages that were acknowledged
    faults

vars == <<old, outbox, epoch, next, oldInbox, newInbox, heard, task, told, faults>>
heads == <<old, outbox, epoch, next>>
Idle == [pc |-> "idle", m |-> "", items |-> {}, passed |-> "", epoch |-> 0]
Holds(rule) == rule \notin Broken
Fault == faults < Faults /\ faults' = faults + 1

Init ==
    /\ old = "run" /\ outbox = FALSE /\ epoch = 1 /\ next = FALSE
    /\ oldInbox = {} /\ newInbox = {} /\ heard = {} /\ told = {} /\ faults = 0
    /\ task = [t \in Tasks |-> Idle]

Goes(t, pc) == task' = [task EXCEPT ![t].pc = pc]
IsTelling(t) == task[t].pc # "idle" /\ task[t].m = ""

(***************************************************************************)
(* The end of the old generation, and who tells of it (Router.hand_over).  *)
(***************************************************************************)
Continue(t) ==
    /\ old = "run" /\ task[t] = Idle
    /\ old' = "continued" /\ outbox' = TRUE
    /\ task' = [task EXCEPT ![t] = [Idle EXCEPT !.pc = IF Holds("8begun") THEN "begin" ELSE "read", !.epoch = 1]]
    /\ UNCHANGED <<epoch, next, oldInbox, newInbox, heard, told, faults>>
ClaimOutbox(t) ==
    /\ outbox /\ task[t] = Idle
    /\ IF \E other \in Tasks : IsTelling(other) THEN Fault ELSE UNCHANGED faults
    /\ epoch' = epoch + 1
    /\ task' = [task EXCEPT ![t] = [Idle EXCEPT !.pc = IF Holds("8begun") THEN "begin" ELSE "read", !.epoch = epoch + 1]]
    /\ UNCHANGED <<old, outbox, next, oldInbox, newInbox, heard, told>>
BeginNext(t) ==
    /\ task[t].pc = "begin" /\ next' = TRUE /\ Goes(t, IF Holds("8begun") THEN "read" ELSE "pass")
    /\ UNCHANGED <<old, outbox, epoch, oldInbox, newInbox, heard, told, faults>>
ReadOldInbox(t) ==
    /\ task[t].pc = "read"
    /\ task' = [task EXCEPT ![t].items = oldInbox, ![t].pc = IF Holds("8begun") \/ task[t].m # "" THEN "pass" ELSE "begin"]
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, told, faults>>
PassOn(t, m) ==
    /\ task[t].pc = "pass" /\ m \in task[t].items
    /\ newInbox' = newInbox \cup {m} /\ task' = [task EXCEPT ![t].pc = "passed", ![t].passed = m]
    /\ UNCHANGED <<heads, oldInbox, heard, told, faults>>
Remove(t) ==
    /\ task[t].pc = "passed" /\ oldInbox' = oldInbox \ {task[t].passed}
    /\ task' = [task EXCEPT ![t].items = @ \ {task[t].passed}, ![t].passed = "", ![t].pc = "pass"]
    /\ UNCHANGED <<heads, newInbox, heard, told, faults>>
HandedOver(t) ==
    /\ task[t].pc = "pass" /\ task[t].items = {}
    /\ Goes(t, IF task[t].m = "" THEN "settle" ELSE "putNew")
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, told, faults>>
SettleOutbox(t) ==
    /\ task[t].pc = "settle"
    /\ outbox' = IF task[t].epoch = epoch THEN FALSE ELSE outbox
    /\ task' = [task EXCEPT ![t] = Idle]
    /\ UNCHANGED <<old, epoch, next, oldInbox, newInbox, heard, told, faults>>

(***************************************************************************)
(* Delivery (Router.deliver, _leave_in_inbox).                             *)
(***************************************************************************)
IsUnderWay(m) == \E t \in Tasks : task[t].m = m
Receive(t, m) ==
    /\ task[t] = Idle
    /\ IF m \in told \/ IsUnderWay(m) THEN Fault ELSE UNCHANGED faults
    /\ task' = [task EXCEPT ![t] = [Idle EXCEPT !.m = m, !.pc = IF ~next THEN "putOld" ELSE IF outbox THEN "read" ELSE "putNew"]]
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, told>>
PutOld(t) ==
    /\ task[t].pc = "putOld" /\ oldInbox' = oldInbox \cup {task[t].m} /\ Goes(t, "bump")
    /\ UNCHANGED <<heads, newInbox, heard, told, faults>>
Acknowledged(t) == told' = told \cup {task[t].m} /\ task' = [task EXCEPT ![t] = Idle]
BumpOld(t) ==
    /\ task[t].pc = "bump"
    /\ IF old = "run" \/ ~Holds("8follow") THEN Acknowledged(t) ELSE Goes(t, "follow") /\ UNCHANGED told
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, faults>>
Follow(t) ==
    /\ task[t].pc = "follow"
    /\ IF next THEN Goes(t, IF Holds("8move") THEN "putNewFirst" ELSE "removeFirst") /\ UNCHANGED told ELSE Acknowledged(t)
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, faults>>
PutNew(t) ==
    /\ task[t].pc \in {"putNew", "putNewFirst"} /\ newInbox' = newInbox \cup {task[t].m}
    /\ IF task[t].pc = "putNew" THEN Acknowledged(t) ELSE Goes(t, "removeThen") /\ UNCHANGED told
    /\ UNCHANGED <<heads, oldInbox, heard, faults>>
RemoveOld(t) ==
    /\ task[t].pc \in {"removeFirst", "removeThen"} /\ oldInbox' = oldInbox \ {task[t].m}
    /\ IF task[t].pc = "removeThen" THEN Acknowledged(t) ELSE Goes(t, "putNew") /\ UNCHANGED told
    /\ UNCHANGED <<heads, newInbox, heard, faults>>

(***************************************************************************)
(* What owners see, given by `Ownership`; and deaths.                      *)
(***************************************************************************)
HearOld(m) ==
    /\ old = "run" /\ m \in oldInbox /\ heard' = heard \cup {m} /\ oldInbox' = oldInbox \ {m}
    /\ UNCHANGED <<heads, newInbox, task, told, faults>>
HearNew(m) ==
    /\ next /\ m \in newInbox /\ heard' = heard \cup {m} /\ newInbox' = newInbox \ {m}
    /\ UNCHANGED <<heads, oldInbox, task, told, faults>>
Die(t) ==
    /\ task[t] # Idle /\ Fault /\ task' = [task EXCEPT ![t] = Idle]
    /\ UNCHANGED <<heads, oldInbox, newInbox, heard, told>>

Progress ==
    /\ \/ \E t \in Tasks :
            \/ Continue(t) \/ ClaimOutbox(t) \/ BeginNext(t) \/ ReadOldInbox(t) \/ Remove(t) \/ HandedOver(t) \/ SettleOutbox(t)
            \/ PutOld(t) \/ BumpOld(t) \/ Follow(t) \/ PutNew(t) \/ RemoveOld(t)
            \/ \E m \in Messages : Receive(t, m) \/ PassOn(t, m)
       \/ \E m \in Messages : HearOld(m) \/ HearNew(m)
    /\ faults' = faults
Disturbance == \E t \in Tasks : Die(t) \/ ClaimOutbox(t) \/ \E m \in Messages : Receive(t, m)
Next == Progress \/ Disturbance
Spec == Init /\ [][Next]_vars /\ WF_vars(Progress)

I9_AcknowledgedIsDurable == told \subseteq oldInbox \cup newInbox \cup heard
IsDone == next /\ ~outbox /\ told = Messages /\ Messages \subseteq heard
I8_I9_NothingIsLeft == ENABLED Progress \/ IsDone
I8_I9_EveryMessageIsHeard == <>[]IsDone
Symmetry == Permutations(Tasks)
=============================================================================
