<?php
/*
 * Publishes lobby changes and consumes room updates of lobbyd, with php-amqplib.
 *
 *     composer require php-amqplib/php-amqplib      (or Debian's package php-amqplib)
 *     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f php webinar.php publish webinar 1 1767225600
 *     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f php webinar.php consume
 */

declare(strict_types=1);

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

$composer = __DIR__ . '/vendor/autoload.php';
require file_exists($composer) ? $composer : 'PhpAmqpLib/autoload.php';

$exchange = getenv('EXCHANGE') ?: 'lobbyd.events';
$queue = getenv('QUEUE') ?: 'webinars';

/** Returns when the broker has the change; throws if it does not answer. */
function publish(AMQPChannel $channel, string $exchange, string $token, int $state, int $timer): void
{
    $change = [
        'token' => $token,
        'state' => $state,
        'timer' => $timer,
        'version' => (int) floor(microtime(true) * 1000),
    ];
    $message = new AMQPMessage(json_encode($change, JSON_THROW_ON_ERROR), [
        'content_type' => 'application/json',
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
    ]);
    $channel->confirm_select();
    $channel->set_nack_handler(function (): void {
        throw new RuntimeException('the broker did not take the change');
    });
    $channel->basic_publish($message, $exchange, "lobby.changed.$token", mandatory: true);
    $channel->wait_for_pending_acks_returns(10);
}

function consume(AMQPChannel $channel, string $exchange, string $queue): void
{
    $arguments = new AMQPTable(['x-queue-type' => 'quorum']);
    $channel->queue_declare($queue, durable: true, auto_delete: false, arguments: $arguments);
    $channel->queue_bind($queue, $exchange, 'room.updated.#');
    $channel->basic_qos(0, 100, false);
    // A program that restarts keeps these in its database.
    $versions = [];
    $receive = function (AMQPMessage $message) use (&$versions): void {
        $room = json_decode($message->getBody(), true, flags: JSON_THROW_ON_ERROR)['data'];
        if ($room['version'] > ($versions[$room['token']] ?? 0)) {
            $versions[$room['token']] = $room['version'];
            echo "{$room['token']} {$room['reason']} {$room['lobbyState']}\n";
        }
        // After the work with it.
        $message->ack();
    };
    $channel->basic_consume($queue, callback: $receive);
    echo "waiting for updates\n";
    while ($channel->is_consuming()) {
        $channel->wait();
    }
}

$url = parse_url((string) getenv('AMQP_URL'));
$connection = new AMQPStreamConnection(
    $url['host'],
    $url['port'] ?? 5672,
    rawurldecode($url['user'] ?? 'guest'),
    rawurldecode($url['pass'] ?? 'guest'),
    rawurldecode(ltrim($url['path'] ?? '/%2f', '/')),
    heartbeat: 30,
    read_write_timeout: 60,
);
$channel = $connection->channel();
if (($argv[1] ?? '') === 'publish' && $argc === 5) {
    publish($channel, $exchange, $argv[2], (int) $argv[3], (int) $argv[4]);
} elseif (($argv[1] ?? '') === 'consume') {
    consume($channel, $exchange, $queue);
} else {
    fwrite(STDERR, "usage: webinar.php publish TOKEN STATE TIMER | consume\n");
    exit(1);
}
$connection->close();
