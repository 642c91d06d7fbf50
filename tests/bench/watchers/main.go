// Command watchers holds many watches open and measures what a server needs to feed them. It also makes many calls, and
// measures what a server needs to answer them.
//
// It reads orders from standard input, one JSON object a line, and answers each with one line: `open` opens a group of
// watches and waits for the first message of each, `run` asks the server for changes and waits until every message has
// come, `count` tells how many have come, `close` ends a group; `load` makes calls for a while. Messages are counted, not
// unmarshalled, so that one core feeds on what another makes.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	groups := map[string]*group{}
	answers := json.NewEncoder(os.Stdout)
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<24)
	for orders.Scan() {
		answer, err := carryOut(orders.Bytes(), groups)
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := answers.Encode(answer); err != nil {
			return
		}
	}
}

func carryOut(line []byte, groups map[string]*group) (any, error) {
	var order struct {
		Do    string
		Group string
		opening
		running
	}
	if err := json.Unmarshal(line, &order); err != nil {
		return nil, err
	}
	switch order.Do {
	case "open":
		opened, err := open(order.opening)
		if err != nil {
			return nil, err
		}
		groups[order.Group] = opened
		return map[string]int{"streams": order.Streams}, nil
	case "run":
		return groups[order.Group].run(order.running)
	case "count":
		return groups[order.Group].tally(), nil
	case "close":
		groups[order.Group].close()
		delete(groups, order.Group)
		return map[string]int{}, nil
	case "load":
		var asked loading
		if err := json.Unmarshal(line, &asked); err != nil {
			return nil, err
		}
		return load(asked)
	}
	return nil, fmt.Errorf("no such order: %q", order.Do)
}
