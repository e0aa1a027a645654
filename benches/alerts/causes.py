"""A lane for each alert: what is done to it, what must fire, what may fire beside it, and what fixes it."""

import signal

from relay import ApiRelay, SlowBroker
from harness import Lane, until

TOO_LARGE = 1024 * 1024 + 5


class Cause:
    """`alert` has to fire after `inflict`, and to clear after `fix`; `beside` may fire as well. Without `fix` time alone clears it."""

    def __init__(self, alert, title, lane, inflict, fix=lambda: None, beside=()):
        self.alert, self.title, self.lane = alert, title, lane
        self.inflict, self.fix, self.beside = inflict, fix, {alert, *beside}


def guard(harness):
    lane = Lane(harness, "guard", replicas=4)

    def fix():
        lane.control(key_valid=True)
        until("the guard opens", 90, lambda: lane.command("resume") and lane.status(0)["guard"]["state"] in ("active", "canary"))
    return Cause("CaptchaGuardTripped", "the key is revoked", lane, lambda: (lane.feed(5), lane.control(key_valid=False)), fix)


def paused(harness):
    lane = Lane(harness, "paused", replicas=2)
    return Cause("CaptchaPausedLong", "captcha-worker pause", lane, lambda: lane.command("pause"), lambda: lane.command("resume"))


def gone(harness):
    lane = Lane(harness, "gone", replicas=2)
    return Cause("CaptchaNotConsuming", "every replica killed", lane, lambda: [replica.kill() for replica in lane.replicas], lane.begin,
                 ["CaptchaReplicaDown"])


def down(harness):
    lane = Lane(harness, "down", replicas=4)
    return Cause("CaptchaReplicaDown", "one replica of four killed", lane, lambda: lane.replicas[lane.leader()].kill(), lane.begin)


def unready(harness):
    lane = Lane(harness, "unready", replicas=2)

    def restart(**settings):
        lane.replicas[1].terminate()
        lane.run(1, **settings)
    return Cause("CaptchaReplicaNotReady", "one replica with another key", lane, lambda: restart(solver__api_key="another-key"), restart,
                 ["CaptchaReplicaDown"])


def leaderless(harness):
    lane = Lane(harness, "leaderless", replicas=2, broker__heartbeat="60s")
    frozen = []

    def freeze():
        frozen.append(lane.replicas[lane.leader()])
        frozen[0].send_signal(signal.SIGSTOP)
    return Cause("CaptchaNoLeader", "the leader frozen", lane, freeze, lambda: frozen[0].send_signal(signal.SIGCONT), ["CaptchaReplicaDown"])


def flapping(harness):
    harness.ctl("add_vhost", "flapping")
    harness.ctl("set_permissions", "-p", "flapping", "guest", ".*", ".*", ".*")
    lane = Lane(harness, "flapping", vhost="flapping", consume=False)

    def cut():
        for lost in range(1, 5):
            harness.ctl("close_all_connections", "-p", "flapping", "a trial")
            until("the replica is back", 60, lambda: lane.status(0)["counters"]["sessions_lost"] >= lost and lane.status(0)["ready"])
    # A lane of one is nobody while it comes back, and spans are short.
    return Cause("CaptchaBrokerFlapping", "the broker closes its connections, four times", lane, cut, beside=["CaptchaNotConsuming"])


def late(harness):
    lane = Lane(harness, "late", solver__max_calls_per_second=3)
    return Cause("CaptchaPollsLate", "3 calls a second allowed, 60 tasks open", lane, lambda: lane.publish(60, {"solve_ms": 25_000}),
                 # Overdue polls are a reason of /readyz, and nobody else is there; what is polled
                 # too late is lost.
                 beside=["CaptchaNotConsuming", "CaptchaPaidTwice", "CaptchaWaste", "CaptchaDeadLetterBurst"])


def money(harness):
    lane = Lane(harness, "money", scenario="balance = 10.0\n", guard__balance_interval="5s")
    return Cause("CaptchaMoneyLow", "36 an hour spent, 10 there", lane, lambda: lane.feed(10), lambda: lane.control(add_credits=100_000))


PRICE = {"prices__ImageToTextTask": "0.001"}


def nearly(harness):
    lane = Lane(harness, "nearly", budgets__per_day="0.1", **PRICE)
    return Cause("CaptchaBudgetNearlyUsed", "90 of 100 tasks of the day's budget", lane, lambda: lane.publish(90),
                 lambda: lane.command("budget", "raise", "--by", "10", "--for", "1h"))


def used_up(harness):
    lane = Lane(harness, "used-up", budgets__per_day="0.05", **PRICE)
    return Cause("CaptchaBudgetUsedUp", "a budget for 50 of 80 jobs", lane, lambda: lane.publish(80),
                 lambda: lane.command("budget", "raise", "--by", "10", "--for", "1h"),
                 # One replica, which is ready again when jobs are taken.
                 ["CaptchaNotConsuming"])


def drift(harness):
    # Dear tasks, so that more of them make the drift a small share of what is spent.
    lane = Lane(harness, "drift", scenario="balance = 1000.0\n[types.ImageToTextTask]\ncost = 10.0\n", guard__balance_interval="5s",
                prices__ImageToTextTask="10")

    def spend():
        lane.publish(5)
        until("the jobs are done", 60, lambda: lane.status(0)["counters"]["solved"] >= 5)
        lane.control(balance=944.0)
    return Cause("CaptchaBalanceDrift", "somebody else spends 6 beside 50", lane, spend, lambda: lane.publish(10), ["CaptchaMoneyLow"])


def balance(harness):
    lane = Lane(harness, "balance")
    relay = ApiRelay(lane.api, seed=1)
    lane.base = relay.url

    def spoil():
        relay.spoil = lambda path: path.endswith("getBalance")
        lane.feed(5)

    def fix():
        relay.spoil = lambda path: False
    return Cause("CaptchaBalanceUnknown", "getBalance alone fails", lane, spoil, fix)


def twice(harness):
    lane = Lane(harness, "twice")

    def cut():
        # The first submission after a start stops the fleet when it is cut off.
        lane.publish(1)
        until("the first job has gone through", 60, lambda: lane.status(0)["guard"]["state"] == "active")
        lane.publish(5, {"create": ["accepted_then_cut", "ok"]})
    return Cause("CaptchaPaidTwice", "accepted, and the answer cut off", lane, cut)


def waste(harness):
    lane = Lane(harness, "waste")
    return Cause("CaptchaWaste", "pictures that the API cannot recognise", lane,
                 lambda: lane.publish(60, {"result": ["ERROR_CAPTCHA_UNSOLVABLE"]}), beside=["CaptchaPaidTwice", "CaptchaDeadLetterBurst"])


def burst(harness):
    lane = Lane(harness, "burst")
    return Cause("CaptchaDeadLetterBurst", "jobs for a site that is not listed", lane, lambda: lane.publish(60, site=True))


def unreadable(harness):
    lane = Lane(harness, "unreadable")

    def litter():
        with harness.connection() as connection:
            connection.channel().basic_publish(f"{lane.job}.jobs", "", b"x" * TOO_LARGE)
    return Cause("CaptchaUnreadableMessages", "a message above 1 MiB", lane, litter, lambda: lane.command("outcomes", "--dead", "raw", "--ack"))


def unrouted(harness):
    lane = Lane(harness, "unrouted")

    def unbind():
        with harness.connection() as connection:
            connection.channel().queue_unbind(f"{lane.job}.results", f"{lane.job}.outcomes", "solved.#")
        lane.publish(20)

    def fix():
        lane.command("topology", "declare")
        lane.command("reroute")
    return Cause("CaptchaOutcomesUnrouted", "the results' binding taken away", lane, unbind, fix)


def unconsumed(harness):
    lane = Lane(harness, "unconsumed", consume=False)
    return Cause("CaptchaResultsNotConsumed", "no consumer", lane, lambda: lane.publish(20), lambda: lane.command("outcomes", "--ack"))


def backlog(harness):
    lane = Lane(harness, "backlog", replicas=2, worker__max_in_flight=2)
    return Cause("CaptchaBacklog", "1,000 jobs of 5 s for replicas that hold 2", lane, lambda: lane.publish(1000, {"solve_ms": 5_000}),
                 lambda: (lane.replicas[0].kill(), lane.run(0, worker__max_in_flight=2000)))


def ownerless(harness):
    lane = Lane(harness, "ownerless", replicas=2, worker__max_in_flight=2)

    def orphan():
        lane.replicas[1].terminate()
        lane.run(1, worker__max_in_flight=200)
        lane.publish(100, {"solve_ms": 50_000})
        until("its tickets are held", 60, lambda: lane.status(1)["tickets_open"] > 60)
        lane.replicas[1].kill()
    return Cause("CaptchaTicketsWithoutOwner", "who held them killed, the other full", lane, orphan, lambda: lane.run(1, worker__max_in_flight=200),
                 ["CaptchaReplicaDown", "CaptchaPaidTwice", "CaptchaBacklog"])


def confirms(harness):
    relay = SlowBroker(harness.port)
    lane = Lane(harness, "confirms")
    lane.amqp = harness.amqp(relay.port)

    def slow(delay):
        relay.delay = delay
    return Cause("CaptchaConfirmsSlow", "the broker's words 1.5 s late", lane, lambda: (lane.feed(5), slow(1.5)), lambda: slow(0.0))


def failing(harness):
    lane = Lane(harness, "failing")
    relay = ApiRelay(lane.api, seed=2)
    lane.base = relay.url

    def spoil(share):
        relay.spoil = lambda path: relay.chance.random() < share
    return Cause("CaptchaApiFailing", "every fifth call a server error", lane, lambda: (lane.feed(5), spoil(0.2)), lambda: spoil(0.0),
                 # A submission without a readable answer may have been accepted.
                 ["CaptchaPaidTwice"])


def calm(harness):
    """Nothing may fire where nothing is wrong: a lane at work, one without work."""
    busy, idle = Lane(harness, "busy", replicas=4), Lane(harness, "idle", replicas=2)
    busy.begin()
    idle.begin()
    busy.feed(10)
    return [busy, idle]


ALL = [guard, paused, gone, down, unready, leaderless, flapping, late, money, nearly, used_up, drift, balance, twice, waste, burst, unreadable, unrouted, unconsumed,
       backlog, ownerless, confirms, failing]
