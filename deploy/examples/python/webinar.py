#!/usr/bin/env python3
"""Publishes lobby changes and consumes room updates of lobbyd, with pika.

    pip install pika
    AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f ./webinar.py publish webinar 1 1767225600
    AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f ./webinar.py consume
"""

import json
import os
import sys
import time

import pika

EXCHANGE = os.environ.get("EXCHANGE", "lobbyd.events")
QUEUE = os.environ.get("QUEUE", "webinars")


def publish(channel, token, state, timer):
    """Returns when the broker has the change; raises an error if it does not take it."""
    channel.confirm_delivery()
    change = {"token": token, "state": state, "timer": timer, "version": time.time_ns() // 1_000_000}
    channel.basic_publish(
        exchange=EXCHANGE,
        routing_key=f"lobby.changed.{token}",
        body=json.dumps(change),
        properties=pika.BasicProperties(content_type="application/json", delivery_mode=2),
        mandatory=True,
    )


def consume(channel):
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind(QUEUE, EXCHANGE, "room.updated.#")
    channel.basic_qos(prefetch_count=100)
    # A program that restarts keeps these in its database.
    versions = {}

    def receive(channel, method, _properties, body):
        room = json.loads(body)["data"]
        if room["version"] > versions.get(room["token"], 0):
            versions[room["token"]] = room["version"]
            print(room["token"], room["reason"], room["lobbyState"], flush=True)
        # After the work with it.
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(QUEUE, receive)
    print("waiting for updates", flush=True)
    channel.start_consuming()


def main():
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    match sys.argv[1:]:
        case ["publish", token, state, timer]:
            publish(channel, token, int(state), int(timer))
        case ["consume"]:
            consume(channel)
        case _:
            sys.exit(__doc__)
    connection.close()


main()
