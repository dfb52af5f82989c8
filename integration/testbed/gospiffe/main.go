// Command gospiffe is a workload written with go-spiffe: it gets its identity from a Workload
// API and speaks mutual TLS with others, as a client and as a server. Tests run it against what
// countersign serves and against its sidecars. It prints JSON, one object a line.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/net/http2"
)

// What sidecars speak with each other: HTTP under names of their own.
const (
	alpnH2    = "countersign/h2"
	alpnHTTP1 = "countersign/http1.1"
)

const usage = `usage: gospiffe serve SOCKET LISTEN EXPECTED_ID
       gospiffe call SOCKET ADDRESS EXPECTED_ID HOST
       gospiffe watch SOCKET COUNT
       gospiffe jwt SOCKET AUDIENCE`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gospiffe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	switch {
	case len(args) == 4 && args[0] == "serve":
		return serve(args[1], args[2], args[3])
	case len(args) == 5 && args[0] == "call":
		return call(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 3 && args[0] == "watch":
		return watch(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == "jwt":
		return jwt(ctx, args[1], args[2])
	}
	return errors.New(usage)
}

func say(object map[string]any) {
	line, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func source(ctx context.Context, socket string) (*workloadapi.X509Source, error) {
	options := workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + socket))
	return workloadapi.NewX509Source(ctx, options)
}

// serve answers every request of the expected peer with who that is.
func serve(socket, listen, expected string) error {
	id, err := spiffeid.FromString(expected)
	if err != nil {
		return err
	}
	identities, err := source(context.Background(), socket)
	if err != nil {
		return err
	}
	defer identities.Close()
	config := tlsconfig.MTLSServerConfig(identities, identities, tlsconfig.AuthorizeID(id))
	config.NextProtos = []string{alpnH2, alpnHTTP1}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := x509svid.IDFromCert(r.TLS.PeerCertificates[0])
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "go-spiffe sees %s", peer)
	})
	h2 := &http2.Server{}
	server := &http.Server{
		Handler:   handler,
		TLSConfig: config,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			alpnH2: func(base *http.Server, conn *tls.Conn, handler http.Handler) {
				h2.ServeConn(conn, &http2.ServeConnOpts{BaseConfig: base, Handler: handler})
			},
		},
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	say(map[string]any{"listening": listener.Addr().String()})
	return server.Serve(tls.NewListener(listener, config))
}

// call makes one request of the expected peer and tells what came back.
func call(ctx context.Context, socket, address, expected, host string) error {
	id, err := spiffeid.FromString(expected)
	if err != nil {
		return err
	}
	identities, err := source(ctx, socket)
	if err != nil {
		return err
	}
	defer identities.Close()
	config := tlsconfig.MTLSClientConfig(identities, identities, tlsconfig.AuthorizeID(id))
	config.NextProtos = []string{alpnH2}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	h2, err := (&http2.Transport{}).NewClientConn(conn)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/", nil)
	if err != nil {
		return err
	}
	response, err := h2.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	say(map[string]any{"status": response.StatusCode, "body": string(body)})
	return nil
}

// watch tells the serial number of one certificate after the other.
func watch(ctx context.Context, socket, count string) error {
	wanted, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	identities, err := source(ctx, socket)
	if err != nil {
		return err
	}
	defer identities.Close()
	for seen := 0; ; {
		svid, err := identities.GetX509SVID()
		if err != nil {
			return err
		}
		roots, err := identities.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return err
		}
		if _, _, err := x509svid.Verify(svid.Certificates, roots); err != nil {
			return fmt.Errorf("our own certificate does not verify: %w", err)
		}
		say(map[string]any{
			"id":     svid.ID.String(),
			"serial": svid.Certificates[0].SerialNumber.Text(16),
		})
		if seen++; seen == wanted {
			return nil
		}
		if err := identities.WaitUntilUpdated(ctx); err != nil {
			return err
		}
	}
}

// jwt fetches a token, checks it here with the keys of the API, and has the API check it.
func jwt(ctx context.Context, socket, audience string) error {
	option := workloadapi.WithAddr("unix://" + socket)
	tokens, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(option))
	if err != nil {
		return err
	}
	defer tokens.Close()
	svid, err := tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	here, err := jwtsvid.ParseAndValidate(svid.Marshal(), tokens, []string{audience})
	if err != nil {
		return fmt.Errorf("checked here: %w", err)
	}
	there, err := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), audience, option)
	if err != nil {
		return fmt.Errorf("checked by the API: %w", err)
	}
	_, other := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), audience+"x", option)
	say(map[string]any{
		"id":    here.ID.String(),
		"there": there.ID.String(),
		"token": svid.Marshal(),
		"other": fmt.Sprint(other),
	})
	return nil
}
