"""An S3 server for the tests: moto, and around it what moto leaves out.

    server.py FOLDER [CERTIFICATE KEY]

Prints one line of JSON when it is ready: its port and the keys of its users. Ends when its standard input
does. FOLDER/requests.jsonl gets one line a request. FOLDER/options.json, when it is there, is read at each request:

    unknown_conditions   answer 501 to conditional writes, as some stores do
    busy                 answer 503 to so many of the next requests that carry a body
    corrupt              change a byte of so many of the next bodies before they are checked
    lose                 carry out so many of the next writes, and answer 500
    cut                  end so many of the next answers to a GET of an object in the middle

Buckets: `backups`; `locked`, with versions and Object Lock; `many`, with 1,005 objects named `f/NUMBER/manifest.json`.
Users: `admin` may do everything, `writer` may only write.
"""

import base64
import datetime
import hashlib
import io
import json
import os
import re
import sys
import threading
from urllib.parse import unquote

os.environ.setdefault("S3_UPLOAD_PART_MIN_SIZE", "1024")
os.environ.setdefault("S3_IGNORE_SUBDOMAIN_BUCKETNAME", "true")

import boto3
import urllib3
from botocore.config import Config
from moto import settings
from moto.core.responses import ActionAuthenticatorMixin
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

# The certificate is the test's own.
urllib3.disable_warnings()

FOLDER = sys.argv[1]
REGION = "eu-central-1"
LOCK = threading.Lock()
USED = {}
LOCKS = {}


def options():
    try:
        with open(os.path.join(FOLDER, "options.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def spend(name):
    """True as long as an option counts, once for each request."""
    with LOCK:
        wanted = options().get(name, 0)
        if USED.get(name, 0) >= wanted:
            return False
        USED[name] = USED.get(name, 0) + 1
        return True


def error(status, code, message="", more=""):
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return status, text.encode()


class Front:
    """What stands before moto: the checks of real stores, faults, and the record of requests."""

    def __init__(self, app):
        self.app = app
        self.open = False

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "")
        body = environ["wsgi.input"].read(length) if length else b""
        environ["wsgi.input"] = io.BytesIO(body)
        refused = error(411, "MissingContentLength") if chunked else self.refuse(environ, body)
        if refused:
            status, text = refused
            self.note(environ, status, 0, len(body))
            start_response(f"{status} X", [("Content-Length", str(len(text))), ("Content-Type", "application/xml")])
            return [text if environ["REQUEST_METHOD"] != "HEAD" else b""]
        seen = {}

        def begin(status, headers, *rest):
            seen.update(status=int(status.split()[0]), headers=headers)
            return lambda _: None

        answer = b"".join(self.app(environ, begin))
        status, method = seen["status"], environ["REQUEST_METHOD"]
        if method == "POST" and status < 300:
            self.lock(environ, answer)
        if self.open and status < 300 and method in ("PUT", "POST") and spend("lose"):
            status, answer = error(500, "InternalError", "The answer was lost.")
            seen["headers"] = [("Content-Length", str(len(answer)))]
        cut = self.open and method == "GET" and "HTTP_RANGE" in environ and len(answer) > 1 and spend("cut")
        self.note(environ, status, len(answer), len(body))
        start_response(f"{status} X", seen["headers"])
        if cut:
            # Less than was promised: the connection ends.
            environ["werkzeug.socket"].settimeout(0.1)
            return [answer[: len(answer) // 2]]
        return [answer]

    def refuse(self, environ, body):
        if not self.open or environ["PATH_INFO"].startswith("/moto-api"):
            return None
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        region = re.search(r"Credential=[^/]+/\d+/([^/]+)/", authorization)
        if region and region.group(1) != REGION:
            message = f"the region '{region.group(1)}' is wrong; expecting '{REGION}'"
            return error(400, "AuthorizationHeaderMalformed", message, f"<Region>{REGION}</Region>")
        date = environ.get("HTTP_X_AMZ_DATE")
        if date:
            now = datetime.datetime.now(datetime.timezone.utc)
            sent = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
            if abs((now - sent).total_seconds()) > 900:
                message = "The difference between the request time and the current time is too large."
                more = f"<ServerTime>{now:%Y-%m-%dT%H:%M:%SZ}</ServerTime>"
                return error(403, "RequestTimeTooSkewed", message, more)
        if body and spend("busy"):
            return error(503, "SlowDown", "Please reduce your request rate.")
        if body and spend("corrupt"):
            body = bytes([body[0] ^ 1]) + body[1:]
        if environ["REQUEST_METHOD"] in ("PUT", "POST"):
            if environ.get("HTTP_X_AMZ_CONTENT_SHA256") != hashlib.sha256(body).hexdigest():
                return error(400, "XAmzContentSHA256Mismatch", "The body is another one than was signed.")
            md5 = environ.get("HTTP_CONTENT_MD5")
            if md5 and md5 != base64.b64encode(hashlib.md5(body).digest()).decode():
                return error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        if environ.get("HTTP_IF_NONE_MATCH") == "*":
            if options().get("unknown_conditions"):
                return error(501, "NotImplemented", "A header you provided implies what is not implemented.")
            # moto looks at it for PUT only.
            if environ["REQUEST_METHOD"] == "POST" and self.stored(environ) is not None:
                return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.")
        return None

    @staticmethod
    def stored(environ):
        _, bucket, key = environ["PATH_INFO"].encode("latin-1").decode().split("/", 2)
        return s3_backends["123456789012"]["aws"].get_object(bucket, key)

    def lock(self, environ, answer):
        """Lets an upload in parts have the lock it was begun with, which moto forgets."""
        query = environ.get("QUERY_STRING", "")
        mode = environ.get("HTTP_X_AMZ_OBJECT_LOCK_MODE")
        begun = re.search(rb"<UploadId>([^<]+)</UploadId>", answer)
        if query.startswith("uploads") and mode and begun:
            LOCKS[begun.group(1).decode()] = (mode, environ["HTTP_X_AMZ_OBJECT_LOCK_RETAIN_UNTIL_DATE"])
        ended = re.search(r"uploadId=([^&]+)", query)
        if ended and unquote(ended.group(1)) in LOCKS:
            stored = self.stored(environ)
            stored.lock_mode, stored.lock_until = LOCKS[unquote(ended.group(1))]

    def note(self, environ, status, out, came):
        line = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "query": environ.get("QUERY_STRING", ""),
            "range": environ.get("HTTP_RANGE"),
            "status": status,
            "out": out if environ["REQUEST_METHOD"] == "GET" else 0,
            "in": came,
        }
        with LOCK, open(os.path.join(FOLDER, "requests.jsonl"), "a") as file:
            file.write(json.dumps(line) + "\n")


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_):
        pass

    def make_environ(self):
        environ = super().make_environ()
        environ["werkzeug.socket"] = self.connection
        return environ


def main():
    front = Front(DomainDispatcherApplication(create_backend_app))
    tls = tuple(sys.argv[2:4]) or None
    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Handler, ssl_context=tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def client(service):
        address = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=address,
            aws_access_key_id="setup",
            aws_secret_access_key="setup",
            verify=False,
            config=Config(s3={"addressing_style": "path"}),
        )

    s3, iam = client("s3"), client("iam")
    place = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket="backups", CreateBucketConfiguration=place)
    s3.create_bucket(Bucket="many", CreateBucketConfiguration=place)
    for number in range(1005):
        s3_backends["123456789012"]["aws"].put_object("many", f"f/{number:04}/manifest.json", b"x")
    s3.create_bucket(Bucket="locked", CreateBucketConfiguration=place, ObjectLockEnabledForBucket=True)
    keys = {}
    for user, actions in {"admin": ["s3:*"], "writer": ["s3:PutObject", "s3:AbortMultipartUpload"]}.items():
        iam.create_user(UserName=user)
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        }
        iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        keys[user] = [key["AccessKeyId"], key["SecretAccessKey"]]
    # From now on signatures and policies are looked at.
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    ActionAuthenticatorMixin.request_count = 0
    front.open = True
    print(json.dumps({"port": server.port, "keys": keys}), flush=True)
    sys.stdin.read()
    os._exit(0)


main()
