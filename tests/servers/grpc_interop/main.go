// The public gRPC interop test service as grpc-go has it, for tests/grpc/interop_spec.lua.
//
// Prints one JSON line when ready: ports on 127.0.0.1 and what it is made of; ends when its standard input closes.
//
//	http, tls (signed by ca_file)   the service; TLS without ALPN is turned away, as grpc-go does from 1.67 on
//	aging                           connections are told to go away after a moment
//	narrow                          two calls at a time on a connection
//	control                         HTTP: /stats, /log, /reset, /wait?calls=N&cancelled=N&given_up=N&running=N
//
// `server client HOST:PORT` is the other side instead: the public cases of grpc-go's client, against somebody's server.
//
// A call with the metadata `x-test-hold` is held until its client gives up or its time is over.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// holds the call when it asks for it; then the error is what became of the call.
func hold(ctx context.Context) error {
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md["x-test-hold"]) > 0 {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

func observe(book *ledger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo,
			handler grpc.UnaryHandler) (any, error) {
			done := book.begin(ctx, info.FullMethod)
			if err := hold(ctx); err != nil {
				done(err)
				return nil, err
			}
			reply, err := handler(ctx, request)
			done(err)
			return reply, err
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			handler grpc.StreamHandler) error {
			done := book.begin(stream.Context(), info.FullMethod)
			err := hold(stream.Context())
			if err == nil {
				err = handler(service, stream)
			}
			done(err)
			return err
		}),
	}
}

// listen serves the test service on a free port with these options and returns the port.
func listen(book *ledger, options ...grpc.ServerOption) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(append(observe(book), options...)...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { log.Fatal(server.Serve(listener)) }()
	return listener.Addr().(*net.TCPAddr).Port
}

// certificate makes one that signs itself, and the file that clients trust.
func certificate(folder string) (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "riverlua test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	path := filepath.Join(folder, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path, os.WriteFile(path, text, 0o600)
}

func requireALPN(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != "h2" {
		return errors.New("ALPN did not choose h2")
	}
	return nil
}

func run() error {
	folder, err := os.MkdirTemp("", "grpc-interop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	own, ca, err := certificate(folder)
	if err != nil {
		return err
	}
	secure := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{own}, VerifyConnection: requireALPN})

	book := newLedger()
	controller, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(controller, book)) }()

	ready := map[string]any{
		"http":    listen(book),
		"tls":     listen(book, grpc.Creds(secure)),
		"aging":   listen(book, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond})),
		"narrow":  listen(book, grpc.MaxConcurrentStreams(2)),
		"control": controller.Addr().(*net.TCPAddr).Port,
		"ca_file": ca,
		"made_of": "grpc-go " + grpc.Version + ", " + runtime.Version(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func main() {
	work := run
	if len(os.Args) == 3 && os.Args[1] == "client" {
		work = func() error { return judge(os.Args[2]) }
	}
	if err := work(); err != nil {
		log.Fatal(err)
	}
}
