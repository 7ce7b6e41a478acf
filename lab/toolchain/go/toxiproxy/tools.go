//go:build tools

// Package tools names the program that the lab builds, so that go.sum pins everything it is made of.
package tools

import _ "github.com/Shopify/toxiproxy/v2/cmd/server"
