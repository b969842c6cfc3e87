"""The edges of the three machines by verb and by who goes them, by hand from the tables of states and never from muster.edges.

A line is a verb, as what who does it does it, and its edges, "from>to"; from nothing it is made.
"""

from __future__ import annotations

TASK = """
submit any,sql: >blocked >scheduled >queued
unblock engine: blocked>queued blocked>scheduled
parent_failed engine: blocked>cancelled
wake engine: scheduled>queued
offer engine: queued>offered
accept holder: offered>running
decline holder: offered>queued running>queued
offer_timeout engine: offered>queued
session_lost engine: offered>queued running>scheduled running>dead cancelling>cancelled
complete holder: running>succeeded
fail holder: running>scheduled running>failed running>dead
run_timeout engine: running>scheduled running>dead
progress_timeout engine: running>scheduled running>dead
need_input holder: running>input_required
provide_input owner,admin,human,engine: input_required>running input_required>queued
input_failed engine: input_required>scheduled input_required>failed
cancel owner,admin,engine: blocked>cancelled scheduled>cancelled queued>cancelled offered>cancelled input_required>cancelled running>cancelling
cancelled holder: cancelling>cancelled
grace_over engine: cancelling>cancelled
expire engine: blocked>expired scheduled>expired queued>expired offered>expired running>expired input_required>expired cancelling>expired
sql sql: blocked>queued blocked>scheduled blocked>cancelled blocked>expired scheduled>queued scheduled>cancelled scheduled>expired
sql sql: queued>offered queued>cancelled queued>expired offered>running offered>queued offered>cancelled offered>expired
sql sql: running>queued running>succeeded running>scheduled running>failed running>dead running>input_required running>cancelling running>expired
sql sql: input_required>running input_required>queued input_required>scheduled input_required>failed input_required>cancelled input_required>expired
sql sql: cancelling>cancelled cancelling>expired
"""

HELP = """
request any: >open
take_prior owner: open>accepted offered>accepted
offer engine: open>offered
claim holder: offered>claimed claimed>claimed
decline holder: offered>open claimed>open
offer_timeout engine: offered>open
claim_timeout engine: claimed>open
session_lost engine: offered>open claimed>open
escalate owner,admin,engine: open>escalated offered>escalated
answer holder: claimed>answered
panel_over engine: claimed>answered
accept owner: answered>accepted
auto_accept engine: answered>accepted
reject owner: answered>open answered>escalated
resolve human: escalated>answered
default_answer engine: escalated>answered
withdraw owner,admin,engine: open>withdrawn offered>withdrawn claimed>withdrawn answered>withdrawn escalated>withdrawn
expire engine: open>expired offered>expired claimed>expired escalated>expired
no_verdict engine: answered>unanswered
"""

RUN = """
start any,sql: >pending
claim worker: pending>in_progress blocked>in_progress
take worker: pending>in_progress
block worker: pending>blocked in_progress>blocked
submit worker: in_progress>awaiting_verification
complete worker: pending>completed in_progress>completed awaiting_verification>completed
complete human: escalated_to_human>completed
fail worker: pending>failed in_progress>failed blocked>failed awaiting_verification>failed
fail human: escalated_to_human>failed
escalate worker: pending>escalated_to_human in_progress>escalated_to_human blocked>escalated_to_human
retry worker: in_progress>pending
retry human: escalated_to_human>pending
retry engine: verification_failed>pending
session_lost engine: in_progress>pending in_progress>failed
run_timeout engine: in_progress>pending in_progress>failed
cancel worker,owner,admin,engine: pending>cancelled in_progress>cancelled blocked>cancelled
verify verifier: awaiting_verification>verification_in_progress
verifier_lost verifier,engine,sql: verification_in_progress>awaiting_verification
give_up engine: awaiting_verification>escalated_to_human verification_failed>escalated_to_human
pass verifier: verification_in_progress>verification_passed verification_in_progress>awaiting_verification
reject verifier: verification_in_progress>verification_failed
finish engine: verification_passed>completed
expire engine: pending>failed in_progress>failed blocked>failed awaiting_verification>failed
expire engine: verification_in_progress>failed verification_passed>failed verification_failed>failed escalated_to_human>failed
sql sql: pending>in_progress pending>blocked pending>completed pending>failed pending>escalated_to_human pending>cancelled
sql sql: in_progress>blocked in_progress>awaiting_verification in_progress>completed in_progress>failed in_progress>escalated_to_human
sql sql: in_progress>pending in_progress>cancelled blocked>in_progress blocked>failed blocked>escalated_to_human blocked>cancelled
sql sql: awaiting_verification>verification_in_progress awaiting_verification>completed awaiting_verification>failed awaiting_verification>escalated_to_human
sql sql: verification_in_progress>verification_passed verification_in_progress>verification_failed verification_in_progress>failed
sql sql: verification_passed>completed verification_passed>failed
sql sql: verification_failed>pending verification_failed>in_progress verification_failed>escalated_to_human verification_failed>failed
sql sql: escalated_to_human>completed escalated_to_human>pending escalated_to_human>failed
"""


def steps(law: str) -> list[str]:
    """Each as "verb role from>to", which is what a row of a history says."""
    found = []
    for line in law.strip().splitlines():
        who, _, edges = line.partition(": ")
        verb, roles = who.split()
        found += [f"{verb} {role} {edge}" for role in roles.split(",") for edge in edges.split()]
    return found


STEPS = {"task": steps(TASK), "help": steps(HELP), "run": steps(RUN)}
