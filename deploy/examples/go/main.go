// Publishes lobby changes and consumes room updates of lobbyd, with amqp091-go.
//
//	go mod tidy
//	AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f go run . publish webinar 1 1767225600
//	AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f go run . consume
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	exchange = setting("EXCHANGE", "lobbyd.events")
	queue    = setting("QUEUE", "webinars")
)

type change struct {
	Token   string `json:"token"`
	State   int    `json:"state"`
	Timer   int64  `json:"timer"`
	Version int64  `json:"version"`
}

type update struct {
	Data struct {
		Token      string `json:"token"`
		Reason     string `json:"reason"`
		LobbyState int    `json:"lobbyState"`
		Version    int64  `json:"version"`
	} `json:"data"`
}

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// publish returns when the broker has the change.
func publish(channel *amqp.Channel, token, state, timer string) error {
	number, err := strconv.Atoi(state)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(timer, 10, 64)
	if err != nil {
		return err
	}
	body, err := json.Marshal(change{token, number, seconds, time.Now().UnixMilli()})
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	message := amqp.Publishing{
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Body:         body,
	}
	key := "lobby.changed." + token
	confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, message)
	if err != nil {
		return err
	}
	if !confirm.Wait() {
		return errors.New("the broker did not take the change")
	}
	return nil
}

func consume(channel *amqp.Channel) error {
	arguments := amqp.Table{"x-queue-type": "quorum"}
	if _, err := channel.QueueDeclare(queue, true, false, false, false, arguments); err != nil {
		return err
	}
	if err := channel.QueueBind(queue, "room.updated.#", exchange, false, nil); err != nil {
		return err
	}
	if err := channel.Qos(100, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	fmt.Println("waiting for updates")
	// A program that restarts keeps these in its database.
	versions := map[string]int64{}
	for delivery := range deliveries {
		var event update
		if err := json.Unmarshal(delivery.Body, &event); err != nil {
			return err
		}
		room := event.Data
		if room.Version > versions[room.Token] {
			versions[room.Token] = room.Version
			fmt.Println(room.Token, room.Reason, room.LobbyState)
		}
		// After the work with it.
		if err := delivery.Ack(false); err != nil {
			return err
		}
	}
	return errors.New("the connection is closed")
}

func run(arguments []string) error {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	switch {
	case len(arguments) == 4 && arguments[0] == "publish":
		return publish(channel, arguments[1], arguments[2], arguments[3])
	case len(arguments) == 1 && arguments[0] == "consume":
		return consume(channel)
	}
	return errors.New("usage: webinar publish TOKEN STATE TIMER | consume")
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}
