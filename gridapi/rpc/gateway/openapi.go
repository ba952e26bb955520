package gateway

import (
	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// object is a JSON object.
type object = map[string]any

// describe returns the OpenAPI description of what is offered now.
func describe(offers []offer) object {
	paths := object{
		"/v1/functions": listingPath("listFunctions", "Functions that workers offer now"),
		"/v1/workers":   listingPath("listWorkers", "Workers, and why others cannot be reached"),
		"/openapi.json": listingPath("describe", "This description"),
	}
	for _, o := range offers {
		if o.Kind == rpc.KindValues || o.Kind == rpc.KindStream {
			paths["/v1/functions/"+o.Name] = callPath(o)
		}
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "Functions of a grid", "version": "1", "description": "Calls are carried out by other members' computers."},
		"paths":   paths,
		"components": object{
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer", "description": "The content of the file http.token. None on the Unix socket."}},
			"schemas": object{"Problem": object{
				"type": "object", "description": "RFC 9457",
				"properties": object{
					"type": object{"type": "string"}, "title": object{"type": "string"}, "status": object{"type": "integer"}, "detail": object{"type": "string"},
					"call": object{"type": "integer"}, "function": object{"type": "string"}, "worker": object{"type": "string"},
					"workers": object{"type": "array", "items": object{"type": "string"}}, "next": object{"type": "string"},
				},
			}},
			"parameters": object{
				"timeout": parameter("timeout", "Longest time for the call, as 30s", "string"),
				"verify":  parameter("verify", "Take a result when N of at most M workers agree, as 2of3", "string"),
				"once":    parameter("once", "Never do the call a second time", "boolean"),
			},
		},
		"security": []any{object{"token": []any{}}, object{}},
	}
}

func parameter(name, about, kind string) object {
	return object{"name": name, "in": "query", "description": about, "schema": object{"type": kind}}
}

func listingPath(id, about string) object {
	return object{"get": object{
		"operationId": id, "summary": about,
		"responses": object{"200": content("What there is", "application/json", object{"type": "object"}), "default": problems},
	}}
}

// callPath describes the call of one function.
func callPath(o offer) object {
	kind, in, out := "application/octet-stream", object{"type": "string", "format": "binary"}, object{"type": "string", "format": "binary"}
	if o.Kind == rpc.KindValues {
		kind = "application/json"
		in, out = schemasOf(o.Signature)
	}
	return object{"post": object{
		"operationId": "call_" + o.Name, "summary": "Call " + o.Name,
		"parameters": []any{
			object{"$ref": "#/components/parameters/timeout"}, object{"$ref": "#/components/parameters/verify"}, object{"$ref": "#/components/parameters/once"},
		},
		"requestBody": object{"required": true, "content": object{kind: object{"schema": in}}},
		"responses":   object{"200": content("The result", kind, out), "default": problems},
	}}
}

func content(about, kind string, schema object) object {
	return object{"description": about, "content": object{kind: object{"schema": schema}}}
}

var problems = content("There is no result", "application/problem+json", object{"$ref": "#/components/schemas/Problem"})
