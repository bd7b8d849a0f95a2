package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	soakRounds  = 200
	caseSeconds = 20
)

// compressed sends a large request with gzip.
func compressed(ctx context.Context, client testgrpc.TestServiceClient) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-test-compressed", "1")
	request := &testgrpc.SimpleRequest{ResponseSize: 314159, ExpectCompressed: &testgrpc.BoolValue{Value: true},
		Payload: interop.ClientNewPayload(testgrpc.PayloadType_COMPRESSABLE, 271828)}
	reply, err := client.UnaryCall(ctx, request, grpc.UseCompressor(gzip.Name))
	if err == nil && len(reply.GetPayload().GetBody()) != 314159 {
		err = errors.New("a reply of the wrong size")
	}
	return err
}

// cancel gives a call up that the server holds.
func cancel(ctx context.Context, client testgrpc.TestServiceClient) error {
	held, giveUp := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "x-test-hold", "1"))
	time.AfterFunc(20*time.Millisecond, giveUp)
	if _, err := client.UnaryCall(held, &testgrpc.SimpleRequest{}); status.Code(err) != codes.Canceled {
		return fmt.Errorf("wanted CANCELLED, got %v", err)
	}
	_, err := client.EmptyCall(ctx, &testgrpc.Empty{})
	return err
}

// judge runs the cases of grpc-go's interop client that send one request; the official ones end the process when they
// fail. Prints "ok NAME" for each.
func judge(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := testgrpc.NewTestServiceClient(connection)
	official := func(fn func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context) error {
		return func(ctx context.Context) error { fn(ctx, client); return nil }
	}
	cases := []struct {
		name string
		run  func(context.Context) error
	}{
		{"empty_unary", official(interop.DoEmptyUnaryCall)},
		{"large_unary", official(interop.DoLargeUnaryCall)},
		{"server_streaming", official(interop.DoServerStreaming)},
		{"timeout_on_sleeping_server", official(interop.DoTimeoutOnSleepingServer)},
		{"status_code_and_message", official(interop.DoStatusCodeAndMessage)},
		{"special_status_message", official(interop.DoSpecialStatusMessage)},
		{"unimplemented_method", func(ctx context.Context) error {
			interop.DoUnimplementedMethod(ctx, connection)
			return nil
		}},
		{"unimplemented_service", func(ctx context.Context) error {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection))
			return nil
		}},
		{"rpc_soak", func(ctx context.Context) error {
			options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
			interop.DoSoakTest(ctx, client, address, options, false, soakRounds, 0, 27182, 31415, time.Minute, 0)
			return nil
		}},
		{"channel_soak", func(ctx context.Context) error {
			options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
			interop.DoSoakTest(ctx, client, address, options, true, soakRounds/4, 0, 27182, 31415, time.Minute, 0)
			return nil
		}},
		{"client_compressed_unary", func(ctx context.Context) error { return compressed(ctx, client) }},
		{"cancel_after_begin", func(ctx context.Context) error { return cancel(ctx, client) }},
	}
	for _, one := range cases {
		ctx, done := context.WithTimeout(context.Background(), caseSeconds*time.Second)
		err := one.run(ctx)
		done()
		if err != nil {
			return fmt.Errorf("not ok %s: %w", one.name, err)
		}
		fmt.Println("ok", one.name)
	}
	return nil
}
