// A publisher for ZNS Hub in Go, with github.com/segmentio/kafka-go.
//
//	go mod init publisher && go get github.com/segmentio/kafka-go github.com/google/uuid
//	KAFKA_BROKERS=localhost:9092 go run . 0987654321
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
)

// The namespace that the hub derives notification ids in.
var namespace = uuid.MustParse("7b0c4d1e-6a4f-5f63-9d4b-0f6f0a6b7c11")

func main() {
	if err := publish(); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func publish() error {
	brokers := os.Getenv("KAFKA_BROKERS")
	if brokers == "" || len(os.Args) < 2 {
		return fmt.Errorf("usage: KAFKA_BROKERS=host:9092 go run . PHONE [ORDER]")
	}
	order := "order-" + time.Now().Format("150405.000")
	if len(os.Args) > 2 {
		order = os.Args[2]
	}

	// The natural key of this notification: publish it twice and the person still gets it once.
	source, idempotencyKey := "order-service", order+"/shipped"
	value, err := json.Marshal(map[string]any{
		"source":          source,
		"idempotency_key": idempotencyKey,
		"recipient":       map[string]string{"phone": os.Args[1]},
		"template_id":     "300200", // yours; zns dev has this one
		"template_data":   map[string]string{"order_code": order, "customer_name": "Nguyen Van A"},
		"category":        "TRANSACTION",
		"ttl":             "3600s",
		"reference":       order,
		"fallback":        map[string]string{"sms_text": "Don hang " + order + " da duoc gui"},
	})
	if err != nil {
		return err
	}
	id := uuid.NewSHA1(namespace, []byte(source+"\n"+idempotencyKey)).String()

	writer := &kafka.Writer{
		Addr:         kafka.TCP(strings.Split(brokers, ",")...),
		Topic:        "notification.requested",
		Balancer:     kafka.Murmur2Balancer{}, // the hub's partitioner: the record need not be moved
		RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// The record's key: ordering_key where there is one, else the notification's id.
	err = writer.WriteMessages(ctx, kafka.Message{Key: []byte(id), Value: value})
	if err != nil {
		_ = writer.Close()
		return err
	}
	fmt.Println(id)
	return writer.Close()
}
