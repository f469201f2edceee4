"""Serves a folder as a local S3 bucket, for manual tests of `s3://`.

    pip install 'moto[server]' boto3
    python check_s3.py FOLDER [PORT]    # prints the environment to use, and serves until Ctrl-C
"""

import sys
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "images"


def main() -> None:
    folder = Path(sys.argv[1])
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 5555
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    # The server accepts any key; these are not secrets.
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    for path in files:
        client.upload_file(str(path), BUCKET, path.relative_to(folder).as_posix())
    for name, value in environment.items():
        print(f"export {name}={value}")
    print(f"# {len(files)} files at s3://{BUCKET}", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
