// Command backend stands for workspaces of RapidPro's that answer at once, so much faster than whoever sends to them that
// they are not the limit. It prints their ports as one line of JSON.
//
//  1. Every start is taken. Flow and params come back as RapidPro shows them, and two seconds later it is completed.
//  2. A list is what it was when its first page was asked for, the oldest change first.
//  3. With -slow the last workspace takes two seconds to answer a POST.
//  4. With -faults so large a share of the POSTs meets one of `faults`, each in its turn.
//  5. `GET /counts` tells what each workspace has done, and which correlation keys were carried out again; `GET /keys`
//     tells the keys of all.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const takes = 2 * time.Second // from a start to its completion, and until a slow workspace answers

func main() {
	count := flag.Int("count", 1, "how many workspaces")
	slow := flag.Bool("slow", false, "the last one takes its time")
	share := flag.Float64("faults", 0, "the share of POSTs that meet a fault")
	flag.Parse()
	chance := &chance{share: *share, random: rand.New(rand.NewSource(1))}
	workspaces, ports := make([]*workspace, *count), make([]int, *count)
	for n := range workspaces {
		workspaces[n] = newWorkspace(n, chance)
		if *slow && n == *count-1 {
			workspaces[n].delay = takes
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		ports[n] = listener.Addr().(*net.TCPAddr).Port
		go accept(listener, workspaces, n)
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		log.Fatal(err)
	}
	select {}
}

func accept(listener net.Listener, workspaces []*workspace, n int) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go speak(connection.(*net.TCPConn), workspaces, n)
	}
}

// speak answers what comes on one connection, one request after the other.
func speak(connection *net.TCPConn, workspaces []*workspace, n int) {
	defer connection.Close()
	reader := bufio.NewReader(connection)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		status, page, fault := respond(request, body, workspaces, n)
		switch {
		case fault == hangUp:
			connection.SetLinger(0) // which resets it
			return
		case fault == silence:
			continue // whoever has waited long enough hangs up
		}
		if _, err := connection.Write(answer(status, workspaces[n].uuid, page)); err != nil {
			return
		}
	}
}

func respond(request *http.Request, body []byte, workspaces []*workspace, n int) (string, []byte, outcome) {
	w := workspaces[n]
	if request.Method == http.MethodPost {
		return w.post(body)
	}
	query := request.URL.Query()
	switch {
	case request.URL.Path == "/counts":
		return "200 OK", counts(workspaces), answered
	case request.URL.Path == "/keys":
		return "200 OK", keys(workspaces), answered
	case strings.HasSuffix(request.URL.Path, "/flow_starts.json"):
		return "200 OK", w.list(query.Get("uuid"), query.Get("after"), query.Get("cursor")), answered
	case strings.HasSuffix(request.URL.Path, "/flows.json"):
		const row = `{"next":null,"results":[{"uuid":%q,"name":"Registration","archived":false}]}`
		return "200 OK", fmt.Appendf(nil, row, query.Get("uuid")), answered
	}
	return "200 OK", fmt.Appendf(nil, `{"uuid":%q,"name":"Stub"}`, w.uuid), answered
}

func answer(status, account string, page []byte) []byte {
	const head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nX-Temba-Workspace: %s\r\nDate: %s\r\n" +
		"Retry-After: 1\r\nContent-Length: %d\r\n\r\n%s"
	return fmt.Appendf(nil, head, status, account, time.Now().UTC().Format(http.TimeFormat), len(page), page)
}
