"""An object store that speaks S3 and checks signatures: a moto server of our own, with one user who may use it."""

import json
import signal
import subprocess
import sys

import boto3
import botocore.exceptions

from conftest import free_port, until

REGION = "eu-central-1"


class Bucket:
    name = "warmline-test"

    def __init__(self, folder):
        self.port, self.folder = free_port(), folder
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        # The first calls make the user and the bucket; from then on every call is checked.
        setup = 4
        self.log = open(self.folder / f"moto-{self.port}.log", "ab")
        moto = sys.executable.rsplit("/", 1)[0] + "/moto_server"
        environment = {"PATH": "/usr/bin:/bin", "INITIAL_NO_AUTH_ACTION_COUNT": str(setup)}
        self.run = self
        self.process = subprocess.Popen([moto, "-H", "127.0.0.1", "-p", str(self.port)], stdout=self.log, stderr=self.log, env=environment)
        stranger = {"endpoint_url": self.endpoint, "region_name": REGION, "aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
        iam = boto3.client("iam", **stranger)

        def made():
            try:
                return iam.create_user(UserName="warmline")
            except botocore.exceptions.EndpointConnectionError:
                return None

        until(made, "the object store")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="warmline", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="warmline")["AccessKey"]
        self.access, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        boto3.client("s3", **stranger).create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.s3 = boto3.client("s3", **{**stranger, "aws_access_key_id": self.access, "aws_secret_access_key": self.secret})

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=30)
        self.log.close()

    def keys(self, prefix=""):
        return [found["Key"] for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix) for found in page.get("Contents", [])]

    def uploads(self):
        return self.s3.list_multipart_uploads(Bucket=self.name).get("Uploads", [])

    def settings(self, prefix="files", secret=None):
        access = self.folder / "s3-access"
        access.write_text(self.access + "\n")
        proof = self.folder / f"s3-secret-{'wrong' if secret else 'right'}"
        proof.write_text((secret or self.secret) + "\n")
        return (f'[files]\nurl = "s3://{self.name}/{prefix}"\nendpoint = "{self.endpoint}"\nregion = "{REGION}"\n'
                f'access_key_file = "{access}"\nsecret_key_file = "{proof}"\n')
