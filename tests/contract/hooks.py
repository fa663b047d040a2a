"""What the description can't say in JSON Schema, and what a request needs to get further than the first refusal: times that
are near now, names of what exists, keys that weren't used, signatures. Loaded by Schemathesis; `run` starts it."""

import atexit
import base64
import collections
import datetime
import hashlib
import hmac
import json
import os
import pathlib
import re
import time
import uuid

import requests
import schemathesis
from schemathesis import HookContext
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

WORLD = json.loads(pathlib.Path(os.environ["SLUICE_CONTRACT_WORLD"]).read_text())
SHIPMENT = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}(-[0-9]{1,3}){2}")
MAX_KEY = 255
MAX_BATCH_LINES = 10_000
# Tells those who add credentials that they are to be missing; it never leaves this process.
WITHHELD = "x-withheld"
CREDENTIALS = {"tell_events": "webhook-signature"}
KEY = re.compile("[!-~]{1,255}")
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
CLIPPED = {"customer": 64, "name": 100, "street": 100, "city": 100, "postal_code": 16, "sku": 64, "title": 200,
           "reason": 200, "detail": 200, "description": 200}
EVENTS = ("get_events", "get_operator_events")
URL = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")


def one_of(pool, drawn):
    """The same for the same request, so that a failure can be repeated."""
    return pool[int.from_bytes(hashlib.blake2b(repr(drawn).encode()).digest()[:4]) % len(pool)]


def now(later_s=0):
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=later_s)
    return time.isoformat(timespec="milliseconds")


def clip(text, most):
    """At most so many bytes, if that is how many characters it may have."""
    return text.encode()[:most].decode(errors="ignore") if len(text) <= most else text


def good(case, location):
    return case.meta is None or not case.meta.is_negative_at(location)


@schemathesis.hook
def before_call(context: HookContext, case, kwargs):
    if good(case, ParameterLocation.PATH):
        path(case)
    if good(case, ParameterLocation.HEADER):
        headers(case)
    elif CREDENTIALS.get(operation(case), "Authorization") not in (case.headers or {}):
        # What is wrong with it is that the credentials are missing.
        case.headers = {**(case.headers or {}), WITHHELD: "1"}
    if operation(case) in EVENTS and good(case, ParameterLocation.QUERY):
        query(case)
    if operation(case) == "list_orders" and isinstance((case.query or {}).get("customer"), str):
        case.query = {**case.query, "customer": clip(case.query["customer"], 64)}
    if isinstance(case.body, (dict, list)):
        case.body = body(case.body)
        if operation(case) == "replay_webhook" and good(case, ParameterLocation.BODY):
            case.body = {"from": now(-3_600), "to": now(-3_599)}
        if operation(case) == "return_goods" and good(case, ParameterLocation.BODY):
            case.body["lines"] = units(case.body["lines"])


def operation(case):
    return case.operation.definition.raw["operationId"]


def path(case):
    """Seven of eight requests are about an order that there is, returns about one that is delivered; all come from a carrier
    that there is."""
    drawn = dict(case.path_parameters or {})
    if "webhook" in operation(case):
        # A sequence of requests has endpoints of its own, which come and go.
        reads = operation(case) in ("get_webhook", "list_webhook_deliveries")
        if "id" in drawn and case.meta.phase.name != TestPhase.STATEFUL and (not reads or one_of(range(8), drawn)):
            # Of an endpoint there is one replay at a time.
            fleeting = operation(case) in FLEETING
            known = one_of(WORLD["endpoints"], (drawn, dict(case.headers or {}), case.body))
            case.path_parameters = {"id": made() if fleeting else known}
    elif "id" in drawn and operation(case) == "review_parcel":
        case.path_parameters = {**drawn, "id": one_of(WORLD["held"], (drawn, case.body))}
    elif "id" in drawn and operation(case) == "forget_kept_review":
        case.path_parameters = {**drawn, "id": kept(one_of(WORLD["kept"], drawn))}
    elif "id" in drawn and (operation(case) == "return_goods" or one_of(range(8), drawn)):
        pool = WORLD["delivered"] if operation(case) == "return_goods" else WORLD["taken"] + WORLD["delivered"]
        case.path_parameters = {**drawn, "id": one_of(pool, (drawn, case.body, dict(case.headers or {})))}
    if "carrier" in drawn:
        case.path_parameters = {**drawn, "carrier": WORLD["carrier"]}


# Endpoints that were made here, and those of them that are still there.
MADE, SPARE = set(), []
FLEETING = ("remove_webhook", "replay_webhook")


def remove(path):
    requests.delete(WORLD["url"] + path, headers={"Authorization": f"Bearer {WORLD['key']}"}, timeout=10)


def made():
    """An endpoint for one request."""
    if SPARE:
        return SPARE.pop()
    url, key = WORLD["url"] + "/v1/webhooks", {"Authorization": f"Bearer {WORLD['key']}"}
    made = requests.post(url, json={"url": WORLD["hooks"]}, headers=key, timeout=10).json()
    # There may be as many as there can be for a moment; then it is one that there isn't.
    MADE.add(made.get("id"))
    return made.get("id", "whe_01M6VZ4W3V00J8Z8M3C0V9S1QK")


def kept(parcel):
    """A decision for one request to take back: the same one sent again is kept again."""
    url, key = f"{WORLD['url']}/v1/review/{parcel}", {"Authorization": f"Bearer {WORLD['operator_key']}"}
    requests.post(url, json={"handling": "frozen", "keep": "row"}, headers=key, timeout=10)
    return parcel


def headers(case):
    """A key names one request, and a message is signed now."""
    for name in list(case.headers or {}):
        if name.lower() == "idempotency-key":
            case.headers[name] = fresh(case.headers[name])
        if name.lower() == "webhook-timestamp":
            case.headers[name] = str(int(time.time()))
        if name.lower() == "last-event-id" and operation(case) in EVENTS:
            case.headers[name] = one_of(WORLD["cursors"], case.headers[name])


def fresh(key):
    """A key of its own that looks like this one: in quotes if it is."""
    one, bare = str(uuid.uuid4()), key.removeprefix('"')
    if bare == key:
        return key[: MAX_KEY - len(one)] + one
    return f'"{one}{bare}' if len(bare) < MAX_KEY - len(one) else f'"{one}"'


def query(case):
    """Cursors are those of this deployment. A stream has neither limit nor wait; as lines it would never end, so it is asked
    for as server-sent events, of which a few are read. Nobody waits for events that don't come."""
    drawn = dict(case.query or {})
    if drawn.get("after") not in (None, "latest"):
        drawn["after"] = one_of(WORLD["cursors"], drawn)
    if str(drawn.get("follow")).lower() == "true":
        drawn = {name: value for name, value in drawn.items() if name not in ("limit", "wait")}
        case.headers = {**(case.headers or {}), "Accept": "text/event-stream"}
    elif drawn.get("after") == "latest":
        drawn.pop("wait", None)
    case.query = drawn


def body(value, name=None):
    """What is about time is about now; shipments are those that there are; texts are no longer in bytes than in characters.
    What isn't of that form stays as it is, for it is to be refused."""
    if isinstance(value, dict):
        return {name: body(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [body(item) for item in value]
    if not isinstance(value, str):
        return value
    if name in ("placed_at", "occurred_at") and TIME.fullmatch(value):
        return now()
    if name == "idempotency_key" and KEY.fullmatch(value):
        return fresh(value)
    if name == "shipment_id" and SHIPMENT.fullmatch(value):
        return one_of(WORLD["shipments"], value)
    if name == "tracking_number" and 0 < len(value) <= 64 and value.isprintable():
        return one_of(WORLD["tracking"], value)
    if name == "url" and URL.match(value):
        return WORLD["hooks"] + hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
    return clip(value, CLIPPED[name]) if name in CLIPPED else value


def units(lines):
    """Each line of the order once, and no more of it than was ordered."""
    wanted = {line["line"] % WORLD["lines"]: 1 + line["quantity"] % WORLD["units"] for line in lines}
    return [{"line": line, "quantity": quantity} for line, quantity in wanted.items()]


class Bearer(requests.auth.AuthBase):
    """A merchant's or an operator's key."""

    def __init__(self, name):
        self.key = WORLD[name]

    def __call__(self, request):
        if not request.headers.pop(WITHHELD, None):
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Signed(requests.auth.AuthBase):
    """Standard Webhooks, over the very bytes that are sent."""

    def __call__(self, request):
        if request.headers.pop(WITHHELD, None):
            return request
        parts = [request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", ""), request.body or b""]
        signed = b".".join(part if isinstance(part, bytes) else part.encode() for part in parts)
        key = base64.b64decode(WORLD["events_secret"].removeprefix("whsec_"))
        tag = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        request.headers["webhook-signature"] = f"v1,{tag}"
        return request


schemathesis.auth.set_from_requests(Bearer("key")).apply_to(path_regex="^/v1/(orders|events|webhooks)")
schemathesis.auth.set_from_requests(Bearer("operator_key")).apply_to(path_regex="^/v1/(operator/|review)")
schemathesis.auth.set_from_requests(Signed()).apply_to(path_regex="^/v1/carriers/")


NDJSON = "application/x-ndjson"


# Answers by operation and status: who only ever gets refusals learns little.
TALLY = collections.Counter()


@schemathesis.hook
def after_call(context: HookContext, case, response):
    TALLY[operation(case), response.status_code] += 1
    if case.meta is None or case.meta.phase.name == TestPhase.STATEFUL:
        return
    # A merchant has few endpoints, and so many are made.
    if operation(case) == "create_webhook" and response.status_code == 201:
        remove(response.headers["location"][0])
    elif operation(case) == "replay_webhook" and response.status_code == 202:
        remove(f"/v1/webhooks/{case.path_parameters['id']}")
    elif operation(case) in FLEETING and response.status_code >= 400 and case.path_parameters.get("id") in MADE:
        SPARE.append(case.path_parameters["id"])


@atexit.register
def tell():
    table = collections.defaultdict(dict)
    for (name, status), count in TALLY.items():
        table[name][status] = count
    pathlib.Path(os.environ["SLUICE_CONTRACT_TALLY"]).write_text(json.dumps(table))


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema):
    """Of NDJSON, Open API 3.1 can describe one line: here it means all of them. What server-sent events carry is held to the
    same schemas as elsewhere."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            bounds = {"minItems": 1, "maxItems": MAX_BATCH_LINES}
            for body, more in ((operation.get("requestBody"), bounds), (operation["responses"].get("200"), {})):
                if line := body and body.get("content", {}).get(NDJSON):
                    line["schema"] = {"type": "array", "items": line["schema"], **more}
    for message, data in (("OrderMessage", "OrderView"), ("EventMessage", "CloudEvent")):
        properties = raw_schema["components"]["schemas"][message]["properties"]
        properties["data"]["contentSchema"] = {"$ref": f"#/components/schemas/{data}"}


@schemathesis.serializer(NDJSON)
def lines(context, value):
    """Some orders, or whatever is there in their place."""
    if isinstance(value, bytes):
        return value
    return b"\n".join(json.dumps(line).encode() for line in (value if isinstance(value, list) else [value]))


@schemathesis.deserializer(NDJSON)
def read_lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def filter_failure(context: HookContext, failure, case, response):
    """What comes in lists is judged one by one: bad data that is refused within an answer of 200 is not accepted."""
    if isinstance(failure, AcceptedNegativeData) and response.status_code == 200:
        if operation(case) == "place_orders":
            return all(line["status"] < 400 for line in read_lines(None, response))
        if operation(case) == "tell_events":
            return all(result["status"] == "taken" for result in response.json()["results"])
    return True
