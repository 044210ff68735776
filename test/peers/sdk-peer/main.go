// Command sdk-peer is a service that joins the mesh with HashiCorp's Go SDK, as a peer for the tests.
//
//	sdk-peer serve <service> <address>            answers each TLS connection with "hello <caller>" and its input
//	sdk-peer call <service> <upstream> <text>     dials the upstream, sends the text, and prints the answer
//
// The agent is that of CONSUL_HTTP_ADDR. The program prints "ready" when its certificate has arrived.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/connect"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: sdk-peer serve <service> <address> | sdk-peer call <service> <upstream> <text>")
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return err
	}
	service, err := connect.NewService(args[1], client)
	if err != nil {
		return err
	}
	defer service.Close()
	select {
	case <-service.ReadyWait():
	case <-time.After(30 * time.Second):
		return errors.New("no certificate within 30 s")
	}
	if args[0] == "serve" {
		return serve(service, args[2])
	}
	if len(args) < 4 {
		return errors.New("call: expected a text to send")
	}
	return call(client, service, args[2], args[3])
}

func serve(service *connect.Service, address string) error {
	listener, err := tls.Listen("tcp", address, service.ServerTLSConfig())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(connection.(*tls.Conn))
	}
}

func answer(connection *tls.Conn) {
	defer connection.Close()
	// The handshake verifies the caller and asks the agent for its authorization.
	if err := connection.Handshake(); err != nil {
		fmt.Println("refused:", err)
		return
	}
	caller := connection.ConnectionState().PeerCertificates[0].URIs[0]
	fmt.Fprintf(connection, "hello %s\n", caller)
	_, _ = io.Copy(connection, connection)
}

func call(client *api.Client, service *connect.Service, upstream, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	connection, err := service.Dial(ctx, &connect.ConsulResolver{Client: client, Name: upstream})
	if err != nil {
		return err
	}
	defer connection.Close()
	fmt.Println("ready")
	if _, err := io.WriteString(connection, text); err != nil {
		return err
	}
	if half, ok := connection.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	answer, err := io.ReadAll(connection)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	fmt.Printf("%s", answer)
	return nil
}
