// Publishes lobby changes and consumes room updates of lobbyd, with amqplib.
//
//     npm install
//     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f node webinar.js publish webinar 1 1767225600
//     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f node webinar.js consume

"use strict";

const amqp = require("amqplib");

const { AMQP_URL, EXCHANGE = "lobbyd.events", QUEUE = "webinars" } = process.env;

// Resolves when the broker has the change.
async function publish(connection, token, state, timer) {
  const channel = await connection.createConfirmChannel();
  const change = { token, state: Number(state), timer: Number(timer), version: Date.now() };
  channel.publish(EXCHANGE, `lobby.changed.${token}`, Buffer.from(JSON.stringify(change)), {
    contentType: "application/json",
    persistent: true,
    mandatory: true,
  });
  await channel.waitForConfirms();
}

async function consume(connection) {
  const channel = await connection.createChannel();
  await channel.assertQueue(QUEUE, { durable: true, arguments: { "x-queue-type": "quorum" } });
  await channel.bindQueue(QUEUE, EXCHANGE, "room.updated.#");
  await channel.prefetch(100);
  // A program that restarts keeps these in its database.
  const versions = new Map();
  await channel.consume(QUEUE, (message) => {
    const room = JSON.parse(message.content).data;
    if (room.version > (versions.get(room.token) ?? 0)) {
      versions.set(room.token, room.version);
      console.log(room.token, room.reason, room.lobbyState);
    }
    // After the work with it.
    channel.ack(message);
  });
  console.log("waiting for updates");
}

async function main([command, ...details]) {
  const connection = await amqp.connect(AMQP_URL);
  if (command === "publish" && details.length === 3) {
    await publish(connection, ...details);
    await connection.close();
  } else if (command === "consume") {
    await consume(connection);
  } else {
    throw new Error("usage: webinar.js publish TOKEN STATE TIMER | consume");
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
